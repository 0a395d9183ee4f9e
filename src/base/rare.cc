#include "base/rare.h"

#include <utility>

namespace plumeria {
namespace {

// Filled by constructors that run before main(), in any order; so it needs none itself.
constinit const RareMark* first_mark = nullptr;

}  // namespace

RareMark::RareMark(std::string_view text) : text_(text), next_(std::exchange(first_mark, this)) {}

const RareMark* rare_marks() { return first_mark; }

}  // namespace plumeria
