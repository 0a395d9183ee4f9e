// The lease of one client (a mount, a program, a server): its number is its identity everywhere.
//
// Numbers grow and are never reused, within one store; they are the fencing numbers that the disk
// checks and programs get. 0 is nobody. docs/protocol.md, "Leases"; Gray & Cheriton, SOSP'89.
#pragma once

#include <cstdint>

namespace plumeria::lock {

enum class LeaseNumber : std::uint64_t { none = 0 };

}  // namespace plumeria::lock
