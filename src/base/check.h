// CHECK: a promise that the program makes to itself.
//
// A failed CHECK prints the condition and its place and aborts, in release builds too: a dead mount
// is recovered by another, a wrong write is not. What the world does to us (disk, network, users)
// is never a CHECK but an Error (result.h).
#pragma once

namespace plumeria {

[[noreturn]] void check_failed(const char* condition, const char* file, int line);

}  // namespace plumeria

#define CHECK(condition)                  \
  (static_cast<bool>(condition) ? void(0) \
                                : ::plumeria::check_failed(#condition, __FILE__, __LINE__))
