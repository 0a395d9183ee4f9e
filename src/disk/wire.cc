#include "disk/wire.h"

#include <array>
#include <utility>

namespace plumeria::disk::wire {

namespace {

constexpr std::size_t error_text_max = 1024;

// What errors are called on the wire; 0 is success. Others are reported as `io`.
constexpr std::array<std::pair<Errc, std::uint8_t>, 15> error_codes{{
    {Errc::io, 1},
    {Errc::no_space, 2},
    {Errc::fenced, 3},
    {Errc::unavailable, 4},
    {Errc::corrupt, 5},
    {Errc::shut_down, 6},
    {Errc::mismatch, 7},
    {Errc::file_too_big, 8},
    {Errc::invalid, 9},
    {Errc::not_supported, 10},
    {Errc::not_permitted, 11},
    {Errc::read_only, 12},
    {Errc::exist, 13},
    {Errc::stale, 14},
    {Errc::in_use, 15},
}};

std::uint8_t code_of(Errc errc) {
  for (const auto& [known, code] : error_codes) {
    if (known == errc) return code;
  }
  return 1;
}

std::optional<Errc> errc_of(std::uint8_t code) {
  for (const auto& [errc, known] : error_codes) {
    if (known == code) return errc;
  }
  return std::nullopt;
}

void put(Writer& writer, const SessionId& session) {
  writer.put(session.incarnation);
  writer.put(session.number);
}

SessionId get_session(Reader& reader) {
  SessionId session;
  session.incarnation = reader.get<std::uint64_t>();
  session.number = reader.get<std::uint64_t>();
  return session;
}

Reader body_of(ByteView message) { return Reader(message.empty() ? message : message.subspan(1)); }

}  // namespace

Bytes encode(const Open& message) {
  Writer writer(25);
  writer.put(MessageType::open);
  writer.put(message.nonce);
  put(writer, message.wanted);
  return writer.take();
}

Bytes encode(const Opened& message) {
  Writer writer(26);
  writer.put(MessageType::opened);
  writer.put(message.nonce);
  put(writer, message.session);
  writer.put(static_cast<std::uint8_t>(message.resumed));
  return writer.take();
}

Bytes encode(const Request& message) {
  Writer writer(88 + message.name.size());
  writer.put(MessageType::request);
  put(writer, message.session);
  writer.put(message.number);
  writer.put(message.answered_below);
  writer.put(message.operation);
  writer.put(message.address.segment);
  writer.put(message.address.offset);
  writer.put(message.length);
  writer.put(message.lease);
  writer.put(message.durability);
  writer.put(message.snapshot);
  writer.put_text(message.name);
  return writer.take();
}

Bytes encode(const Reply& message) {
  Writer writer(64);
  writer.put(MessageType::reply);
  put(writer, message.session);
  writer.put(message.number);
  writer.put(message.error ? code_of(message.error->code) : std::uint8_t{0});
  writer.put(message.first);
  writer.put(message.second);
  writer.put_text(message.error ? std::string_view(message.error->what).substr(0, error_text_max)
                                : std::string_view());
  return writer.take();
}

Bytes encode(const NoSession& message) {
  Writer writer(25);
  writer.put(MessageType::no_session);
  put(writer, message.session);
  writer.put(message.incarnation);
  return writer.take();
}

std::optional<MessageType> type_of(ByteView message) {
  if (message.empty()) return std::nullopt;
  const auto type = static_cast<MessageType>(message[0]);
  if (type < MessageType::open || type > MessageType::no_session) return std::nullopt;
  return type;
}

std::optional<Open> decode_open(ByteView message) {
  Reader reader = body_of(message);
  Open open;
  open.nonce = reader.get<std::uint64_t>();
  open.wanted = get_session(reader);
  if (!reader.finished()) return std::nullopt;
  return open;
}

std::optional<Opened> decode_opened(ByteView message) {
  Reader reader = body_of(message);
  Opened opened;
  opened.nonce = reader.get<std::uint64_t>();
  opened.session = get_session(reader);
  opened.resumed = reader.get<std::uint8_t>() != 0;
  if (!reader.finished() || opened.session.number == 0) return std::nullopt;
  return opened;
}

std::optional<Request> decode_request(ByteView message, ByteView* payload) {
  Reader reader = body_of(message);
  Request request;
  request.session = get_session(reader);
  request.number = reader.get<std::uint64_t>();
  request.answered_below = reader.get<std::uint64_t>();
  request.operation = reader.get<Operation>();
  request.address.segment = reader.get<Segment>();
  request.address.offset = reader.get<std::uint64_t>();
  request.length = reader.get<std::uint64_t>();
  request.lease = reader.get<LeaseNumber>();
  request.durability = reader.get<Durability>();
  request.snapshot = reader.get<SnapshotId>();
  request.name = reader.get_text();
  *payload = reader.get_raw(reader.left());
  if (!reader.ok() || request.number == 0 || request.answered_below > request.number ||
      request.operation < Operation::read ||
      request.operation > Operation::read_snapshot_register ||
      request.durability > Durability::logged || request.name.size() > register_name_max) {
    return std::nullopt;
  }
  return request;
}

std::optional<Reply> decode_reply(ByteView message, ByteView* payload) {
  Reader reader = body_of(message);
  Reply reply;
  reply.session = get_session(reader);
  reply.number = reader.get<std::uint64_t>();
  const auto code = reader.get<std::uint8_t>();
  reply.first = reader.get<std::uint64_t>();
  reply.second = reader.get<std::uint64_t>();
  std::string text = reader.get_text();
  *payload = reader.get_raw(reader.left());
  if (!reader.ok()) return std::nullopt;
  if (code != 0) {
    const std::optional<Errc> errc = errc_of(code);
    reply.error = Error{errc.value_or(Errc::io), std::move(text)};
  }
  return reply;
}

std::optional<NoSession> decode_no_session(ByteView message) {
  Reader reader = body_of(message);
  NoSession no_session;
  no_session.session = get_session(reader);
  no_session.incarnation = reader.get<std::uint64_t>();
  if (!reader.finished()) return std::nullopt;
  return no_session;
}

Bytes encode_segment_max(std::uint64_t bytes) {
  Writer writer(8);
  writer.put(bytes);
  return writer.take();
}

std::optional<std::uint64_t> decode_segment_max(ByteView payload) {
  if (payload.size() != 8) return std::nullopt;
  return Reader(payload).get<std::uint64_t>();
}

Bytes encode_segments(const std::vector<Segment>& segments) {
  Writer writer(8 * segments.size());
  for (const Segment segment : segments) writer.put(segment);
  return writer.take();
}

std::optional<std::vector<Segment>> decode_segments(ByteView bytes) {
  if (bytes.size() % 8 != 0) return std::nullopt;
  Reader reader(bytes);
  std::vector<Segment> segments;
  segments.reserve(bytes.size() / 8);
  while (reader.left() > 0) segments.push_back(reader.get<Segment>());
  return segments;
}

Bytes encode_snapshots(const std::vector<Snapshot>& snapshots) {
  Writer writer;
  for (const Snapshot& snapshot : snapshots) {
    writer.put(snapshot.id);
    writer.put(snapshot.created);
    writer.put(snapshot.bytes);
    writer.put_text(snapshot.name);
  }
  return writer.take();
}

std::optional<std::vector<Snapshot>> decode_snapshots(ByteView bytes) {
  Reader reader(bytes);
  std::vector<Snapshot> snapshots;
  while (reader.left() > 0) {
    Snapshot snapshot;
    snapshot.id = reader.get<SnapshotId>();
    snapshot.created = reader.get<WallTime>();
    snapshot.bytes = reader.get<std::uint64_t>();
    snapshot.name = reader.get_text();
    snapshots.push_back(std::move(snapshot));
  }
  if (!reader.finished()) return std::nullopt;
  return snapshots;
}

}  // namespace plumeria::disk::wire
