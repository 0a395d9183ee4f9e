// What a check has found: the lists of a Report, bounded.
#pragma once

#include <string>
#include <utility>

#include "check/check.h"

namespace plumeria::check {

class Findings {
 public:
  Findings(Report& report, std::size_t max) : report_(report), max_(max) {}

  void problem(std::string what) {
    ++report_.problem_count;
    if (report_.problems.size() < max_) report_.problems.push_back(std::move(what));
  }
  void leak(std::string what) {
    ++report_.leak_count;
    if (report_.leaks.size() < max_) report_.leaks.push_back(std::move(what));
  }
  Report& report() { return report_; }

 private:
  Report& report_;
  const std::size_t max_;
};

}  // namespace plumeria::check
