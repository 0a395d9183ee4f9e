// The contract of the virtual disk over the simulated one.
#include "disk/contract_test.h"

#include "sim/disk.h"

namespace plumeria::sim {
namespace {

class SimHarness final : public disk::ContractHarness {
 public:
  explicit SimHarness(std::uint64_t seed) : simulation_(seed), medium_(simulation_, {}) {}
  disk::VirtualDisk& disk() override { return *handle_; }
  Executor& executor() override { return node_.world().executor; }
  void run(Task<void> task) override { simulation_.run(node_, std::move(task)); }

 private:
  Simulation simulation_;
  Node& node_ = simulation_.add_node("contract");
  SimDisk medium_;
  std::unique_ptr<disk::VirtualDisk> handle_ = medium_.open(node_);
};

std::unique_ptr<disk::ContractHarness> make_seed_1() { return std::make_unique<SimHarness>(1); }
std::unique_ptr<disk::ContractHarness> make_seed_2() { return std::make_unique<SimHarness>(2); }

}  // namespace
}  // namespace plumeria::sim

namespace plumeria::disk {

INSTANTIATE_TEST_SUITE_P(Simulated, DiskContract,
                         testing::Values(ContractCase{"seed1", sim::make_seed_1},
                                         ContractCase{"seed2", sim::make_seed_2}),
                         contract_case_name);

}  // namespace plumeria::disk
