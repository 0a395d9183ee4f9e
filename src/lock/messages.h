// The messages between clerks and lock servers (docs/protocol.md, "Messages"): values, their
// encoding and decoding.
//
// A transport message is a header and any number of items, at most lock_message_max bytes. The
// decoder takes bytes of anybody: it returns Errc::corrupt (or version) and never reads beyond
// them, and its result holds no more memory than a small multiple of the message.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "lock/file_locks.h"
#include "lock/lease.h"
#include "lock/lease_clock.h"
#include "lock/name.h"
#include "lock/program_name.h"
#include "lock/view.h"

namespace plumeria::lock {

constexpr std::size_t lock_message_max = 64u << 10;  // bytes

// The number of a request, of the clerk's own counter: grows with every request.
enum class Sequence : std::uint64_t { none = 0 };
// The number of a file lock call, of the clerk's own counter.
enum class CallNumber : std::uint64_t { none = 0 };

enum class Direction : std::uint16_t { from_clerk = 1, from_server = 2 };

// From the clerk.
struct Join {
  std::uint64_t instance = 0;
  TimePoint sent{};
  std::string label;
  bool has_log = true;  // it needs a log slot: a mount
  friend bool operator==(const Join&, const Join&) = default;
};
struct Renew {
  TimePoint sent{};
  friend bool operator==(const Renew&, const Renew&) = default;
};
struct Leave {
  friend bool operator==(const Leave&, const Leave&) = default;
};
struct Request {
  LockName name;
  Sequence sequence{};
  Mode mode = Mode::none;
  bool is_try = false;
  friend bool operator==(const Request&, const Request&) = default;
};
struct Release {
  LockName name;
  Sequence sequence{};
  Mode keep = Mode::none;
  friend bool operator==(const Release&, const Release&) = default;
};
struct Keep {
  LockName name;
  Sequence sequence{};
  std::uint64_t round = 0;
  friend bool operator==(const Keep&, const Keep&) = default;
};
struct Hold {
  LockName name;
  Sequence sequence{};
  Mode mode = Mode::none;
  friend bool operator==(const Hold&, const Hold&) = default;
};
struct Report {
  std::uint32_t page = 0;
  bool last = false;
  std::vector<Hold> holds;
  std::vector<FileLock> file_locks;
  friend bool operator==(const Report&, const Report&) = default;
};
// What a lock of a program is called: goes before each request for it, and with each report.
struct Named {
  LockName name;
  ProgramName called;
  friend bool operator==(const Named&, const Named&) = default;
};
enum class FileLockKind : std::uint8_t { set = 1, test = 2, drop = 3, cancel = 4 };
struct FileLockCall {
  CallNumber call{};        // of a cancel: the call that it ends
  CallNumber done_below{};  // all calls below have been answered, and the answers received
  FileLockKind kind = FileLockKind::set;
  bool wait = false;
  FileLock lock;
  friend bool operator==(const FileLockCall&, const FileLockCall&) = default;
};

// From the server.
struct Joined {
  std::uint64_t instance = 0;
  TimePoint sent{};  // of the Join
  LeaseNumber lease{};
  std::uint32_t slot = 0;
  LeaseTerms terms;
  WallTime wall{};
  friend bool operator==(const Joined&, const Joined&) = default;
};
struct JoinRefused {
  std::uint64_t instance = 0;
  std::string why;
  friend bool operator==(const JoinRefused&, const JoinRefused&) = default;
};
struct Renewed {
  TimePoint sent{};  // of the Renew
  LeaseTerms terms;
  WallTime wall{};
  friend bool operator==(const Renewed&, const Renewed&) = default;
};
struct Rejoin {
  friend bool operator==(const Rejoin&, const Rejoin&) = default;
};
struct Lost {
  std::string why;
  friend bool operator==(const Lost&, const Lost&) = default;
};
struct Left {
  friend bool operator==(const Left&, const Left&) = default;
};
struct Grant {
  LockName name;
  Sequence sequence{};
  Mode mode = Mode::none;
  std::uint64_t fence = 0;  // of all grants of this store, a later one has a greater number
  friend bool operator==(const Grant&, const Grant&) = default;
};
struct Refused {
  LockName name;
  Sequence sequence{};
  friend bool operator==(const Refused&, const Refused&) = default;
};
struct Revoke {
  LockName name;
  Sequence sequence{};
  Mode keep = Mode::none;
  bool is_try = false;
  std::uint64_t round = 0;  // of a try: comes back in Keep
  friend bool operator==(const Revoke&, const Revoke&) = default;
};
struct ReportReceived {
  std::uint32_t page = 0;
  friend bool operator==(const ReportReceived&, const ReportReceived&) = default;
};
struct Ready {
  friend bool operator==(const Ready&, const Ready&) = default;
};
enum class FileLockResult : std::uint8_t { ok = 1, again = 2, deadlock = 3, interrupted = 4 };
struct FileLockAnswer {
  CallNumber call{};
  FileLockResult result = FileLockResult::ok;
  FileLock lock;  // of a test: the first conflicting lock, or mode none
  friend bool operator==(const FileLockAnswer&, const FileLockAnswer&) = default;
};

using Item = std::variant<Join, Renew, Leave, Request, Release, Keep, Report, FileLockCall, Joined,
                          JoinRefused, Renewed, Rejoin, Lost, Left, Grant, Refused, Revoke,
                          ReportReceived, Ready, FileLockAnswer, Named>;

struct Header {
  Direction direction = Direction::from_clerk;
  Epoch epoch{};
  LeaseNumber lease{};
  friend bool operator==(const Header&, const Header&) = default;
};
struct Message {
  Header header;
  std::vector<Item> items;
};

// Items for one receiver, encoded into as few messages as possible, in order.
class Outbox {
 public:
  void add(const Item& item);
  bool empty() const { return bodies_.empty(); }
  // The messages to send, each with this header; the outbox is empty afterwards.
  std::vector<Bytes> take(const Header& header);

 private:
  std::vector<Writer> bodies_;  // each starts with room for the header
};

// Items of the other direction count as garbage.
Result<Message> decode_message(ByteView bytes, Direction from);

// How many entries fit into one report.
constexpr std::size_t report_holds_max = 3000;
constexpr std::size_t report_file_locks_max = 1000;

// One line, for transcripts and traces.
std::string to_string(const Item& item);
std::string to_string(const FileLock& lock);

}  // namespace plumeria::lock
