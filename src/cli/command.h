// What all commands share: exit codes, and how a command reports its end.
//
// Each command has a file of its own with one function add_NAME(app, exit): it declares the
// arguments, and when CLI11 meets the command it runs and stores how it ended. Every failure is one
// line on standard error that names the thing and, where that helps, what to do.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace plumeria::cli {

// Documented in plumeria(1); scripts rely on them.
enum class Exit : int {
  ok = 0,
  failed = 1,       // anything without a number of its own
  usage = 2,        // the arguments make no sense
  in_use = 3,       // somebody else holds the store, or the mount point is busy
  damaged = 4,      // not a store, of another version, or a block that does not decode
  unreachable = 5,  // nobody answers at that address
  repaired = 6,     // the store was damaged, and is not any more (fsck --repair)
  lost = 7,         // the lease was lost, and the command under its lock ended (lock)
};

Exit exit_of(const Error& error);
// For the end of each command's help: the exit codes.
std::string exit_codes();
// The versions of program, store format and protocol.
std::string version();
// Checks and conversions of arguments.
CLI::Validator seconds_between(double low, double high);
// A number of bytes, with a unit if wanted (64M): converted to bytes.
CLI::Validator size_between(std::uint64_t low, std::uint64_t high, std::uint64_t multiple_of);
CLI::Validator not_empty();
// Prints "plumeria: <text>" on standard error.
void complain(std::string_view text);
// complain() about the error, and the code for it.
Exit complain(const Error& error);

void add_mkfs(CLI::App& app, Exit& exit);
void add_mount(CLI::App& app, Exit& exit);
void add_umount(CLI::App& app, Exit& exit);
void add_serve(CLI::App& app, Exit& exit);
void add_fsck(CLI::App& app, Exit& exit);
void add_logdump(CLI::App& app, Exit& exit);
void add_bench(CLI::App& app, Exit& exit);
void add_snapshot(CLI::App& app, Exit& exit);
void add_status(CLI::App& app, Exit& exit);
void add_lock(CLI::App& app, Exit& exit);
void add_locks(CLI::App& app, Exit& exit);
void add_who(CLI::App& app, Exit& exit);
void add_version(CLI::App& app, Exit& exit);

}  // namespace plumeria::cli
