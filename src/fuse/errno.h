// Errors as the kernel knows them: the one place where an Errc becomes an errno.
#pragma once

#include "base/result.h"

namespace plumeria::fuse {

// What the world does to us (a lost lease, a store that cannot be reached, corruption) is EIO; the
// caller logs it, because EIO says nothing.
int errno_of(Errc code);

// Whether the errno hides more than it tells.
bool worth_a_log_line(Errc code);

}  // namespace plumeria::fuse
