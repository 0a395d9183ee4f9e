// For unit tests: a stream of numbers that its seed determines, the same on every machine.
#pragma once

#include <cstdint>

#include "base/world.h"

namespace plumeria {

// SplitMix64 (Steele, Lea and Flood, OOPSLA'14). Also what std::shuffle wants.
class SeededRandom : public Random {
 public:
  using result_type = std::uint64_t;

  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() override {
    std::uint64_t mixed = state_ += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
  }
  std::uint64_t operator()() { return next(); }
  static constexpr std::uint64_t min() { return 0; }
  static constexpr std::uint64_t max() { return ~std::uint64_t{0}; }

 private:
  std::uint64_t state_;
};

}  // namespace plumeria
