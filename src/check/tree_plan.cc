#include "check/tree_plan.h"

#include <absl/container/flat_hash_map.h>

#include <algorithm>

namespace plumeria::check {
namespace {

enum class Mark { unknown, on_path, hangs };

class Planner {
 public:
  explicit Planner(std::vector<Node>& nodes) {
    for (Node& node : nodes) {
      if (node.is_directory()) directories_.emplace(node.number, State{&node});
    }
  }

  void plan(std::vector<Node>& nodes, const std::vector<DirectoryEdge>& edges) {
    for (const DirectoryEdge& edge : edges) {
      if (State* child = find(edge.child)) child->is_named = true;
    }
    for (auto& [number, state] : directories_) {
      state.node->is_orphan = state.node->links == 0 && !state.is_named && number != root_inode;
    }
    for (const DirectoryEdge& edge : edges) choose(edge);
    if (State* root = find(root_inode)) root->mark = Mark::hangs;
    for (Node& node : nodes) {
      if (node.is_directory() && !node.is_orphan) hang(node.number);
    }
  }

 private:
  struct State {
    Node* node = nullptr;
    bool is_named = false;
    Mark mark = Mark::unknown;
  };
  State* find(std::uint64_t number) {
    const auto found = directories_.find(number);
    return found == directories_.end() ? nullptr : &found->second;
  }

  void choose(const DirectoryEdge& edge) {
    State* child = find(edge.child);
    const State* parent = find(edge.directory);
    if (child == nullptr || parent == nullptr || parent->node->is_orphan) return;
    if (edge.child == root_inode || edge.child == edge.directory) return;
    Node& node = *child->node;
    if (node.place == 0 || node.parent == edge.directory) node.place = edge.directory;
  }

  // Follows the places upwards to something that hangs already.
  void hang(std::uint64_t number) {
    std::vector<State*> path;
    State* state = find(number);
    while (state->mark == Mark::unknown) {
      state->mark = Mark::on_path;
      path.push_back(state);
      if (state->node->place == 0) state->node->place = in_lost_and_found;
      if (state->node->place == in_lost_and_found) break;
      state = find(state->node->place);
    }
    const bool is_circle = state->mark == Mark::on_path && state->node->place != in_lost_and_found;
    if (is_circle) {
      const auto begin = std::find(path.begin(), path.end(), state);
      State* lowest = *std::min_element(begin, path.end(), [](const State* a, const State* b) {
        return a->node->number < b->node->number;
      });
      lowest->node->place = in_lost_and_found;
    }
    for (State* on_path : path) on_path->mark = Mark::hangs;
  }

  absl::flat_hash_map<std::uint64_t, State> directories_;  // order does not matter
};

}  // namespace

void plan_tree(std::vector<Node>& nodes, const std::vector<DirectoryEdge>& edges) {
  Planner(nodes).plan(nodes, edges);
}

}  // namespace plumeria::check
