#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace plumeria {

void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "plumeria: CHECK failed at %s:%d: %s\n", file, line, condition);
  std::fflush(stderr);
  std::abort();
}

}  // namespace plumeria
