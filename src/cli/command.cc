#include "cli/command.h"

#include <cstdio>

namespace plumeria::cli {

Exit exit_of(const Error& error) {
  switch (error.code) {
    case Errc::in_use:
    case Errc::busy:
      return Exit::in_use;
    case Errc::corrupt:
    case Errc::not_a_store:
    case Errc::version:
      return Exit::damaged;
    case Errc::unavailable:
      return Exit::unreachable;
    default:
      return Exit::failed;
  }
}

void complain(std::string_view text) {
  std::fprintf(stderr, "plumeria: %.*s\n", static_cast<int>(text.size()), text.data());
}

Exit complain(const Error& error) {
  complain(error.message());
  return exit_of(error);
}

}  // namespace plumeria::cli
