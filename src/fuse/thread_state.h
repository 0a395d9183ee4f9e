// What /proc tells about threads: ours that may sleep in the kernel, and those of applications.
//
// Errors: a thread that cannot be seen has ended, or is taken to have.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace plumeria::fuse {

// A file of /proc/THREAD that is read again and again.
class ProcFile {
 public:
  ProcFile(std::uint32_t thread, const char* name);
  ~ProcFile();
  ProcFile(const ProcFile&) = delete;
  ProcFile& operator=(const ProcFile&) = delete;

  std::string_view read();  // Valid until the next read; empty if there is none.

 private:
  int fd_;
  std::array<char, 2048> buffer_;
};

// Of the text of /proc/THREAD/stat: 'R' running or ready to run, 'D' and 'S' asleep, …; 0: unknown.
char state_in(std::string_view stat);

// The supplementary groups of a thread; none if it cannot be seen.
std::vector<std::uint32_t> groups_of(std::uint32_t thread);

// Whether a thread has left the reading of a directory. Unknown counts as no.
bool has_left_getdents(std::uint32_t thread);

// Whether a thread that was waiting for a reply has taken it, which it does as soon as it runs
// again and before it does anything else.
enum class Taken {
  no,    // it has not run since
  soon,  // it runs right now: in less than the time of two looks it has
  cuts,  // it has, and waits for pages that are to be cut off
  yes,
};
Taken has_taken_reply(std::uint32_t thread);

// What the looks at one thread say together.
class ReplyLooks {
 public:
  bool is_taken(Taken look) {
    const bool ran = std::exchange(ran_, look == Taken::soon);
    return look == Taken::soon ? ran : look != Taken::no;
  }

 private:
  bool ran_ = false;  // at the last look
};

}  // namespace plumeria::fuse
