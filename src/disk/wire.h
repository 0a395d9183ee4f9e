// The messages between remote_disk.h and diskd/server.h (docs/protocol.md, "Disk sessions").
//
//   client → server   open     asks for a session, or for the one it had
//                     request  one operation, with a number within the session
//   server → client   opened   the session; `resumed` if it is the one asked for
//                     reply    the result of one request
//                     no_session  the server does not know the session of a request
//
// Sessions are numbered by the server, within one incarnation of the store, and never come back. So
// a late duplicate of `open` makes a session that nobody uses, and late duplicates of requests find
// either their own session, which knows what it has done, or none.
//
// Decoding returns nothing for what is not a message of this kind; views point into the message.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "disk/disk.h"

namespace plumeria::disk::wire {

enum class MessageType : std::uint8_t {
  open = 1,
  opened = 2,
  request = 3,
  reply = 4,
  no_session = 5,
};

enum class Operation : std::uint8_t {
  read = 1,
  write = 2,
  discard = 3,
  flush = 4,  // payload: the segments (flush_segments), or none: all
  preallocate = 5,
  next_extent = 6,
  list_segments = 7,
  usage = 8,
  read_register = 9,
  write_register = 10,
  admit = 11,
  fence = 12,
  allocated = 13,
  create_snapshot = 14,
  delete_snapshot = 15,
  list_snapshots = 16,
  read_snapshot = 17,
  next_snapshot_extent = 18,
  list_snapshot_segments = 19,
  read_snapshot_register = 20,
};

constexpr std::size_t register_name_max = 256;
constexpr std::uint64_t segments_listed_max = 1u << 18;

struct SessionId {
  std::uint64_t incarnation = 0;
  std::uint64_t number = 0;  // 0: none
  friend bool operator==(const SessionId&, const SessionId&) = default;
};

struct Open {
  std::uint64_t nonce = 0;  // comes back in Opened
  SessionId wanted;
};
struct Opened {
  std::uint64_t nonce = 0;
  SessionId session;
  bool resumed = false;
};
struct Request {
  SessionId session;
  std::uint64_t number = 0;          // grows by one with each request of the session, from 1
  std::uint64_t answered_below = 0;  // the client has the answers of all lower numbers
  Operation operation{};
  Address address;
  // Or the limit of a list of segments, the expected version of a register, the time of a snapshot.
  std::uint64_t length = 0;
  LeaseNumber lease{};
  Durability durability{};
  SnapshotId snapshot{};
  std::string name;  // of a register or a new snapshot
};
struct Reply {
  SessionId session;
  std::uint64_t number = 0;
  std::optional<Error> error;
  // usage: total, available, and the length of the longest segment in 8 bytes of payload;
  // next extents: offset, length (0: none); allocated: bytes; registers: version, 0; a new
  // snapshot: its id, 0.
  std::uint64_t first = 0, second = 0;
};
struct NoSession {
  SessionId session;              // the one that was named
  std::uint64_t incarnation = 0;  // of the server
};

Bytes encode(const Open& message);
Bytes encode(const Opened& message);
Bytes encode(const Request& message);  // the payload follows it
Bytes encode(const Reply& message);    // the payload follows it
Bytes encode(const NoSession& message);

std::optional<MessageType> type_of(ByteView message);
std::optional<Open> decode_open(ByteView message);
std::optional<Opened> decode_opened(ByteView message);
std::optional<Request> decode_request(ByteView message, ByteView* payload);
std::optional<Reply> decode_reply(ByteView message, ByteView* payload);
std::optional<NoSession> decode_no_session(ByteView message);

Bytes encode_segment_max(std::uint64_t bytes);
std::optional<std::uint64_t> decode_segment_max(ByteView payload);

Bytes encode_segments(const std::vector<Segment>& segments);
std::optional<std::vector<Segment>> decode_segments(ByteView bytes);

Bytes encode_snapshots(const std::vector<Snapshot>& snapshots);
std::optional<std::vector<Snapshot>> decode_snapshots(ByteView bytes);

}  // namespace plumeria::disk::wire
