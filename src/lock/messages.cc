#include "lock/messages.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <type_traits>

#include "base/check.h"
#include "base/number.h"

namespace plumeria::lock {
namespace {

constexpr std::uint32_t magic = 0x314b4c50;  // "PLK1"
constexpr std::uint16_t layout_version = 2;
constexpr std::size_t header_size = 24;
constexpr std::size_t text_size_max = program_name_max;  // bytes of a name, label or reason
constexpr std::size_t hold_size = 18;
constexpr std::size_t file_lock_size = 38;

static_assert(header_size + 16 + report_holds_max * hold_size <= lock_message_max);
static_assert(header_size + 16 + report_file_locks_max * file_lock_size <= lock_message_max);

// Item numbers: docs/protocol.md, "Messages".
template <class T>
constexpr std::uint8_t number_of() {
  if constexpr (std::is_same_v<T, Join>) return 1;
  if constexpr (std::is_same_v<T, Renew>) return 2;
  if constexpr (std::is_same_v<T, Leave>) return 3;
  if constexpr (std::is_same_v<T, Request>) return 4;
  if constexpr (std::is_same_v<T, Release>) return 5;
  if constexpr (std::is_same_v<T, Keep>) return 6;
  if constexpr (std::is_same_v<T, Report>) return 7;
  if constexpr (std::is_same_v<T, FileLockCall>) return 8;
  if constexpr (std::is_same_v<T, Named>) return 9;
  if constexpr (std::is_same_v<T, Joined>) return 65;
  if constexpr (std::is_same_v<T, JoinRefused>) return 66;
  if constexpr (std::is_same_v<T, Renewed>) return 67;
  if constexpr (std::is_same_v<T, Rejoin>) return 68;
  if constexpr (std::is_same_v<T, Lost>) return 69;
  if constexpr (std::is_same_v<T, Left>) return 70;
  if constexpr (std::is_same_v<T, Grant>) return 71;
  if constexpr (std::is_same_v<T, Refused>) return 72;
  if constexpr (std::is_same_v<T, Revoke>) return 73;
  if constexpr (std::is_same_v<T, ReportReceived>) return 74;
  if constexpr (std::is_same_v<T, Ready>) return 75;
  if constexpr (std::is_same_v<T, FileLockAnswer>) return 76;
}
constexpr std::uint8_t first_of_server = 64;

// put() and get() of each field type, in the same order as the fields below. A reader that meets a
// value that cannot be is made to fail.
class Encoder {
 public:
  explicit Encoder(Writer& writer) : writer_(writer) {}

  void field(bool value) { writer_.put(static_cast<std::uint8_t>(value ? 1 : 0)); }
  template <class T>
  requires(std::is_integral_v<T> || std::is_enum_v<T>) void field(T value) { writer_.put(value); }
  void field(TimePoint time) {
    writer_.put(static_cast<std::int64_t>(time.time_since_epoch().count()));
  }
  void field(const std::string& text) {
    const std::size_t size = std::min(text.size(), text_size_max);
    writer_.put(static_cast<std::uint16_t>(size));
    writer_.put_raw(as_bytes(text).first(size));
  }
  void field(const LockName& name) {
    writer_.put(name.lock_class);
    writer_.put(name.number);
  }
  void field(const LeaseTerms& terms) {
    writer_.put(static_cast<std::int64_t>(terms.duration.count()));
    writer_.put(terms.clock_ratio_milli);
  }
  void field(const FileLock& lock) {
    writer_.put(lock.inode);
    field(lock.is_flock);
    writer_.put(lock.owner);
    writer_.put(lock.start);
    writer_.put(lock.end);
    writer_.put(lock.mode);
    writer_.put(lock.pid);
  }
  void field(const Hold& hold) {
    field(hold.name);
    writer_.put(hold.sequence);
    writer_.put(hold.mode);
  }
  template <class T>
  void field(const std::vector<T>& list) {
    writer_.put(static_cast<std::uint16_t>(list.size()));
    for (const T& one : list) field(one);
  }

 private:
  Writer& writer_;
};

class Decoder {
 public:
  explicit Decoder(Reader& reader) : reader_(reader) {}

  bool ok() const { return reader_.ok() && sane_; }

  void field(bool& value) {
    const auto byte = reader_.get<std::uint8_t>();
    require(byte <= 1);
    value = byte == 1;
  }
  template <class T>
  requires(std::is_integral_v<T> || std::is_enum_v<T>) void field(T& value) {
    value = reader_.get<T>();
  }
  void field(Mode& mode) {
    mode = reader_.get<Mode>();
    require(mode <= Mode::exclusive);
  }
  void field(FileLockKind& kind) {
    kind = reader_.get<FileLockKind>();
    require(kind >= FileLockKind::set && kind <= FileLockKind::cancel);
  }
  void field(FileLockResult& result) {
    result = reader_.get<FileLockResult>();
    require(result >= FileLockResult::ok && result <= FileLockResult::interrupted);
  }
  void field(TimePoint& time) { time = TimePoint(Duration(reader_.get<std::int64_t>())); }
  void field(std::string& text) {
    const auto size = reader_.get<std::uint16_t>();
    require(size <= text_size_max);
    text = std::string(as_text(reader_.get_raw(size)));
  }
  void field(LockName& name) {
    name.lock_class = reader_.get<LockClass>();
    name.number = reader_.get<std::uint64_t>();
    require(name.lock_class != LockClass::none);
  }
  void field(LeaseTerms& terms) {
    terms.duration = Duration(reader_.get<std::int64_t>());
    terms.clock_ratio_milli = reader_.get<std::uint32_t>();
    require(terms.duration >= lease_duration_min && terms.duration <= lease_duration_max);
    require(terms.clock_ratio_milli >= 1000 && terms.clock_ratio_milli <= 4000);
  }
  void field(FileLock& lock) {
    lock.inode = reader_.get<std::uint64_t>();
    field(lock.is_flock);
    lock.owner = reader_.get<std::uint64_t>();
    lock.start = reader_.get<std::uint64_t>();
    lock.end = reader_.get<std::uint64_t>();
    field(lock.mode);
    lock.pid = reader_.get<std::uint32_t>();
    require(lock.start <= lock.end);
  }
  void field(Hold& hold) {
    field(hold.name);
    field(hold.sequence);
    field(hold.mode);
    require(hold.mode != Mode::none);
  }
  template <class T>
  void field(std::vector<T>& list) {
    const auto count = reader_.get<std::uint16_t>();
    for (std::uint16_t i = 0; i < count && ok(); ++i) field(list.emplace_back());
  }

 private:
  void require(bool condition) { sane_ = sane_ && condition; }

  Reader& reader_;
  bool sane_ = true;
};

// The layout of each item: its fields in order, for encoder and decoder alike.
template <class Coder, class T>
void fields(Coder& coder, T& item) {
  using I = std::remove_const_t<T>;
  if constexpr (std::is_same_v<I, Join>) {
    coder.field(item.instance), coder.field(item.sent), coder.field(item.label);
    coder.field(item.has_log);
  } else if constexpr (std::is_same_v<I, Renew>) {
    coder.field(item.sent);
  } else if constexpr (std::is_same_v<I, Request>) {
    coder.field(item.name), coder.field(item.sequence), coder.field(item.mode);
    coder.field(item.is_try);
  } else if constexpr (std::is_same_v<I, Release>) {
    coder.field(item.name), coder.field(item.sequence), coder.field(item.keep);
  } else if constexpr (std::is_same_v<I, Keep>) {
    coder.field(item.name), coder.field(item.sequence), coder.field(item.round);
  } else if constexpr (std::is_same_v<I, Report>) {
    coder.field(item.page), coder.field(item.last), coder.field(item.holds);
    coder.field(item.file_locks);
  } else if constexpr (std::is_same_v<I, FileLockCall>) {
    coder.field(item.call), coder.field(item.done_below), coder.field(item.kind);
    coder.field(item.wait), coder.field(item.lock);
  } else if constexpr (std::is_same_v<I, Joined>) {
    coder.field(item.instance), coder.field(item.sent), coder.field(item.lease);
    coder.field(item.slot), coder.field(item.terms), coder.field(item.wall);
  } else if constexpr (std::is_same_v<I, JoinRefused>) {
    coder.field(item.instance), coder.field(item.why);
  } else if constexpr (std::is_same_v<I, Renewed>) {
    coder.field(item.sent), coder.field(item.terms), coder.field(item.wall);
  } else if constexpr (std::is_same_v<I, Lost>) {
    coder.field(item.why);
  } else if constexpr (std::is_same_v<I, Named>) {
    coder.field(item.name), coder.field(item.called.table), coder.field(item.called.name);
  } else if constexpr (std::is_same_v<I, Grant>) {
    coder.field(item.name), coder.field(item.sequence), coder.field(item.mode);
    coder.field(item.fence);
  } else if constexpr (std::is_same_v<I, Refused>) {
    coder.field(item.name), coder.field(item.sequence);
  } else if constexpr (std::is_same_v<I, Revoke>) {
    coder.field(item.name), coder.field(item.sequence), coder.field(item.keep);
    coder.field(item.is_try), coder.field(item.round);
  } else if constexpr (std::is_same_v<I, ReportReceived>) {
    coder.field(item.page);
  } else if constexpr (std::is_same_v<I, FileLockAnswer>) {
    coder.field(item.call), coder.field(item.result), coder.field(item.lock);
  } else {
    static_assert(std::is_empty_v<I>);
  }
}

// What the layout allows but no sender means.
template <class T>
bool meaningful(const T& item) {
  if constexpr (std::is_same_v<T, Request> || std::is_same_v<T, Grant>) {
    return item.mode != Mode::none && item.sequence != Sequence::none;
  }
  if constexpr (std::is_same_v<T, Named>) {
    return is_valid(item.called) && item.name == lock_of(item.called);
  }
  if constexpr (std::is_same_v<T, Release> || std::is_same_v<T, Revoke>) {
    return item.keep != Mode::exclusive;
  }
  return true;
}

// Tries the alternatives of Item one after the other; false if `number` is none of them.
template <std::size_t I = 0>
bool decode_item(std::uint8_t number, Reader& reader, std::vector<Item>& to) {
  if constexpr (I == std::variant_size_v<Item>) {
    return false;
  } else {
    using T = std::variant_alternative_t<I, Item>;
    if (number != number_of<T>()) return decode_item<I + 1>(number, reader, to);
    T item;
    Decoder decoder(reader);
    fields(decoder, item);
    if (!decoder.ok() || !meaningful(item)) return false;
    to.push_back(std::move(item));
    return true;
  }
}

}  // namespace

void Outbox::add(const Item& item) {
  Writer encoded;
  std::visit(
      [&](const auto& one) {
        encoded.put(number_of<std::remove_cvref_t<decltype(one)>>());
        Encoder encoder(encoded);
        fields(encoder, one);
      },
      item);
  CHECK(header_size + encoded.size() <= lock_message_max);
  if (bodies_.empty() || bodies_.back().size() + encoded.size() > lock_message_max) {
    bodies_.emplace_back().put_raw(Bytes(header_size));
  }
  bodies_.back().put_raw(encoded.view());
}

std::vector<Bytes> Outbox::take(const Header& header) {
  std::vector<Bytes> messages;
  messages.reserve(bodies_.size());
  for (Writer& body : bodies_) {
    body.patch(0, magic);
    body.patch(4, layout_version);
    body.patch(6, header.direction);
    body.patch(8, header.epoch);
    body.patch(16, header.lease);
    messages.push_back(body.take());
  }
  bodies_.clear();
  return messages;
}

Result<Message> decode_message(ByteView bytes, Direction from) {
  if (bytes.size() > lock_message_max) {
    return fail(Errc::corrupt, absl::StrCat("lock message of ", bytes.size(), " bytes"));
  }
  Reader reader(bytes);
  if (reader.get<std::uint32_t>() != magic) return fail(Errc::corrupt, "not a lock message");
  const auto version = reader.get<std::uint16_t>();
  if (version != layout_version) {
    return fail(Errc::version, absl::StrCat("lock message of layout ", version,
                                            ", this program knows ", layout_version));
  }
  Message message;
  message.header.direction = reader.get<Direction>();
  message.header.epoch = reader.get<Epoch>();
  message.header.lease = reader.get<LeaseNumber>();
  if (!reader.ok() || message.header.direction != from) {
    return fail(Errc::corrupt, "lock message with a wrong header");
  }
  while (reader.left() > 0) {
    const std::size_t at = bytes.size() - reader.left();
    const auto number = reader.get<std::uint8_t>();
    const bool of_server = number > first_of_server;
    if (of_server != (from == Direction::from_server) ||
        !decode_item(number, reader, message.items)) {
      return fail(Errc::corrupt, absl::StrCat("lock message: bad item ", number, " at byte ", at));
    }
  }
  if (!reader.ok()) return fail(Errc::corrupt, "lock message is cut off");
  return message;
}

std::string to_string(const FileLock& lock) {
  return absl::StrCat(lock.is_flock ? "flock" : "fcntl", " inode=", lock.inode,
                      " owner=", lock.owner, " [", lock.start, ",",
                      lock.end == ~0ull ? "end" : absl::StrCat(lock.end), "] ",
                      mode_name(lock.mode));
}

std::string to_string(const Item& item) {
  struct Printer {
    std::string operator()(const Join& i) { return absl::StrCat("join label=", i.label); }
    std::string operator()(const Renew&) { return "renew"; }
    std::string operator()(const Leave&) { return "leave"; }
    std::string operator()(const Request& i) {
      return absl::StrCat(i.is_try ? "try " : "request ", to_string(i.name), " #", raw(i.sequence),
                          " ", mode_name(i.mode));
    }
    std::string operator()(const Release& i) {
      return absl::StrCat("release ", to_string(i.name), " #", raw(i.sequence), " keep ",
                          mode_name(i.keep));
    }
    std::string operator()(const Keep& i) {
      return absl::StrCat("keep ", to_string(i.name), " #", raw(i.sequence), " round ", i.round);
    }
    std::string operator()(const Report& i) {
      std::string text = absl::StrCat("report page ", i.page, i.last ? " last" : "");
      for (const Hold& hold : i.holds) {
        absl::StrAppend(&text, " ", to_string(hold.name), " #", raw(hold.sequence), " ",
                        mode_name(hold.mode));
      }
      for (const FileLock& lock : i.file_locks) absl::StrAppend(&text, " ", to_string(lock));
      return text;
    }
    std::string operator()(const FileLockCall& i) {
      constexpr const char* names[] = {"?", "set", "test", "drop", "cancel"};
      return absl::StrCat("file lock ", names[raw(i.kind)], " call ", raw(i.call),
                          i.wait ? " wait " : " ", to_string(i.lock));
    }
    std::string operator()(const Named& i) {
      return absl::StrCat("named ", to_string(i.name), " ", i.called.table, "/", i.called.name);
    }
    std::string operator()(const Joined& i) {
      return absl::StrCat("joined lease=", raw(i.lease), " slot=", i.slot);
    }
    std::string operator()(const JoinRefused& i) { return absl::StrCat("join refused: ", i.why); }
    std::string operator()(const Renewed&) { return "renewed"; }
    std::string operator()(const Rejoin&) { return "rejoin"; }
    std::string operator()(const Lost& i) { return absl::StrCat("lost: ", i.why); }
    std::string operator()(const Left&) { return "left"; }
    std::string operator()(const Grant& i) {
      return absl::StrCat("grant ", to_string(i.name), " #", raw(i.sequence), " ",
                          mode_name(i.mode));
    }
    std::string operator()(const Refused& i) {
      return absl::StrCat("refused ", to_string(i.name), " #", raw(i.sequence));
    }
    std::string operator()(const Revoke& i) {
      std::string text = absl::StrCat("revoke ", to_string(i.name), " #", raw(i.sequence), " keep ",
                                      mode_name(i.keep));
      if (i.is_try) absl::StrAppend(&text, " try round ", i.round);
      return text;
    }
    std::string operator()(const ReportReceived& i) {
      return absl::StrCat("report received page ", i.page);
    }
    std::string operator()(const Ready&) { return "ready"; }
    std::string operator()(const FileLockAnswer& i) {
      constexpr const char* names[] = {"?", "ok", "again", "deadlock", "interrupted"};
      return absl::StrCat("file lock answer call ", raw(i.call), " ", names[raw(i.result)]);
    }
  };
  return std::visit(Printer{}, item);
}

}  // namespace plumeria::lock
