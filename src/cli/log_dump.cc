#include "cli/log_dump.h"

#include <absl/strings/escaping.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/number.h"
#include "check/store_reader.h"
#include "format/log_record.h"
#include "lock/view.h"
#include "wal/log_reader.h"

namespace plumeria::cli {
namespace {

using nlohmann::json;

// Labels and messages may hold bytes that are no UTF-8.
std::string to_line(const json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

json header_json(const format::LogHeader& header) {
  return {{"generation", header.generation},
          {"state", header.state == format::LogState::in_use ? "in use" : "empty"},
          {"lease", header.lease},
          {"start", header.start},
          {"first", header.first},
          {"durable", header.durable},
          {"log_size", header.log_size}};
}

json change_json(const format::Change& change, bool with_ranges) {
  const bool is_delta = change.kind == format::ChangeKind::delta;
  json result{{"block", format::to_string(change.block)},
              {"segment", change.block.segment},
              {"number", change.block.number},
              {"version", change.version},
              {"kind", is_delta ? "delta" : "image"},
              {"bytes", change.payload.size()}};
  if (!with_ranges || !is_delta) return result;
  json& ranges = result["ranges"] = json::array();
  for (const format::DeltaRange& range : format::delta_ranges(change)) {
    ranges.push_back({{"offset", range.offset},
                      {"length", range.bytes.size()},
                      {"bytes", absl::BytesToHexString(std::string(as_text(range.bytes)))}});
  }
  return result;
}

json chunk_json(const format::ChunkHeader& chunk) {
  return {{"position", chunk.position}, {"bytes", chunk.size()}, {"durable", chunk.durable},
          {"first", chunk.first},       {"last", chunk.last},    {"records", json::array()}};
}

std::uint64_t number(const json& value) { return value.get<std::uint64_t>(); }
std::string text(const json& value) { return value.get<std::string>(); }
std::string count(const json& value, const char* noun) {
  return absl::StrCat(number(value), " ", noun, number(value) == 1 ? "" : "s");
}

// The same as text, as far as each of these has it.
std::string header_text(const char* which, const json& header) {
  return absl::StrFormat(
      "  %s header: generation %d, %s, lease %d, from position %d and record %d on, durable to "
      "%d\n",
      which, number(header["generation"]), text(header["state"]), number(header["lease"]),
      number(header["start"]), number(header["first"]), number(header["durable"]));
}

std::string log_text(const json& log) {
  std::string result = absl::StrCat("\nlog of slot ", number(log["slot"]), ": ");
  if (!log.contains("header")) return result + "no header\n";
  if (number(log["header"]["generation"]) == 0) return result + "never used\n";
  absl::StrAppend(&result, text(log["header"]["state"]));
  const json owner = log.value("owner", json::object());  // null: nobody; empty: unknown
  if (owner.is_null() && log["header"]["state"] == "in use") {
    absl::StrAppend(&result, ", but no lease has this slot: nothing in it counts");
  } else if (owner.is_object() && !owner.empty()) {
    absl::StrAppend(&result, ", of lease ", number(owner["lease"]), " (", text(owner["label"]),
                    ", ", text(owner["state"]), ")");
  }
  absl::StrAppend(&result, "\n", header_text("valid", log["header"]));
  if (log.contains("other")) absl::StrAppend(&result, header_text("older", log["other"]));
  if (log.contains("other_damage")) {
    absl::StrAppend(&result, "  other header: ", text(log["other_damage"]), "\n");
  }
  return result;
}

std::string change_text(const json& change) {
  std::string result = absl::StrFormat("      %-24s version %-8d %s of %s\n", text(change["block"]),
                                       number(change["version"]), text(change["kind"]),
                                       count(change["bytes"], "byte"));
  if (!change.contains("ranges")) return result;
  for (const json& range : change["ranges"]) {
    absl::StrAppendFormat(&result, "        at %-5d %s: %s\n", number(range["offset"]),
                          count(range["length"], "byte"), text(range["bytes"]));
  }
  return result;
}

std::string chunk_text(const json& chunk) {
  std::string result =
      absl::StrFormat("  chunk at position %d: %s, records %d to %d; before it durable to %d\n",
                      number(chunk["position"]), count(chunk["bytes"], "byte"),
                      number(chunk["first"]), number(chunk["last"]), number(chunk["durable"]));
  for (const json& record : chunk["records"]) {
    absl::StrAppend(&result, "    record ", number(record["number"]), ": ",
                    count(record["bytes"], "byte"), "\n");
    if (record.contains("damage")) {
      absl::StrAppend(&result, "      damaged: ", text(record["damage"]), "\n");
    }
    for (const json& change : record["changes"]) absl::StrAppend(&result, change_text(change));
  }
  return result;
}

std::string end_text(const json& end) {
  const std::string ended = text(end["ended"]);
  if (ended == "never used") return {};
  std::string result = absl::StrCat("  ", ended);
  if (ended == "damaged") absl::StrAppend(&result, ": ", text(end["damage"]), "; after");
  if (ended == "torn") {
    absl::StrAppend(&result, ": a chunk was begun at position ", number(end["position"]),
                    " and is not whole, as a crash leaves it; after");
  }
  if (ended == "end") absl::StrAppend(&result, " at position ", number(end["position"]), " after");
  if (ended == "empty") absl::StrAppend(&result, ": no record counts; after");
  return absl::StrCat(result, " ", count(end["record_count"], "record"), " in ",
                      count(end["chunk_count"], "chunk"), "\n");
}

// Puts the parts together: one JSON object whose parts are never in memory together, or text.
class Printer {
 public:
  Printer(bool json_wanted, std::function<void(std::string_view)> print)
      : json_(json_wanted), print_(std::move(print)) {}

  void begin(const json& store) {
    if (json_) return print_(open(store) + ", \"logs\": [");
    print_(absl::StrCat("store ", text(store["store"]), ", logs of ", number(store["log_size"]),
                        " bytes\n"));
    if (store.contains("view_damage")) {
      print_(absl::StrCat("who owns which log is unknown: ", text(store["view_damage"]), "\n"));
    }
  }
  void begin_log(const json& log) {
    if (!json_) return print_(log_text(log));
    print_(
        absl::StrCat(std::exchange(any_log_, true) ? ",\n" : "\n", open(log), ", \"chunks\": ["));
    any_chunk_ = false;
  }
  void chunk(const json& chunk) {
    if (!json_) return print_(chunk_text(chunk));
    print_((std::exchange(any_chunk_, true) ? ",\n  " : "\n  ") + to_line(chunk));
  }
  void end_log(const json& end) { print_(json_ ? "], " + to_line(end).substr(1) : end_text(end)); }
  void end() {
    if (json_) print_("\n]}\n");
  }

 private:
  // An object to which members are still to come.
  static std::string open(const json& object) {
    std::string line = to_line(object);
    line.pop_back();
    return line;
  }

  const bool json_;
  const std::function<void(std::string_view)> print_;
  bool any_log_ = false, any_chunk_ = false;
};

class LogDump {
 public:
  LogDump(World world, disk::VirtualDisk& disk, format::Superblock superblock,
          LogDumpOptions options, std::function<void(std::string_view)> print)
      : world_(world),
        disk_(disk),
        superblock_(std::move(superblock)),
        options_(std::move(options)),
        printer_(options_.json, std::move(print)) {}

  Task<Result<LogDumpReport>> run() {
    json store{{"store", options_.store}, {"log_size", superblock_.log_size}};
    CO_TRY_STATUS(co_await read_view(store));
    printer_.begin(store);
    CO_TRY(const std::vector<std::uint32_t> slots, co_await slots_to_print());
    for (const std::uint32_t slot : slots) CO_TRY_STATUS(co_await print_log(slot));
    printer_.end();
    co_return report_;
  }

 private:
  // A view that is damaged is one more reason to look at the logs.
  Task<Status> read_view(json& store) {
    auto view = co_await disk_.read_register(lock::view_register);
    if (!view && view.error().code != Errc::corrupt) co_return fail(std::move(view).error());
    if (view && view->version == 0) co_return Status{};  // Never mounted.
    Result<lock::View> decoded = view ? lock::decode_view(view->value) : fail(view.error());
    if (decoded) {
      view_ = *std::move(decoded);
    } else {
      store["view_damage"] = decoded.error().message();
      ++report_.damaged;
    }
    co_return Status{};
  }

  Task<Result<std::vector<std::uint32_t>>> slots_to_print() {
    std::vector<std::uint32_t> slots;
    if (options_.slot) {
      slots.push_back(*options_.slot);
      co_return slots;
    }
    check::StoreReader reader(world_, disk_, {});
    const std::uint64_t base = format::log_segment_base;
    CO_TRY(const auto segments, co_await reader.segments(base, base + format::slot_limit));
    for (const std::uint64_t segment : segments) {
      slots.push_back(static_cast<std::uint32_t>(segment - base));
    }
    co_return slots;
  }

  Task<Status> print_log(std::uint32_t slot) {
    json log{{"slot", slot}};
    add_owner(log, slot);
    auto state = co_await wal::read_log_header(disk_, slot);
    if (!state) {
      printer_.begin_log(log);
      co_return finish(slot, state.error(), {});
    }
    log["header"] = header_json(state->header);
    if (state->other) log["other"] = header_json(*state->other);
    if (state->other_damaged) log["other_damage"] = state->damage;
    printer_.begin_log(log);

    seen_ = {};
    auto visitor = [this](const wal::LogRecord& record) -> Status {
      take(record);
      return {};
    };
    auto contents = co_await wal::read_log(disk_, slot, superblock_.log_size,
                                           wal::DamageCheck::whole_ring, std::move(visitor));
    print_chunk();
    if (!contents) co_return finish(slot, contents.error(), {});
    co_return finish(slot, {}, *contents);
  }

  void add_owner(json& log, std::uint32_t slot) const {
    if (!view_) return;
    log["owner"] = nullptr;
    for (const lock::LeaseRecord& lease : view_->leases) {
      if (lease.slot != slot) continue;
      log["owner"] = {{"lease", raw(lease.lease)},
                      {"label", lease.label},
                      {"state", lock::state_name(lease.state)}};
    }
  }

  // What was visited of the log that is being read.
  struct Seen {
    std::uint64_t records = 0, chunks = 0, damaged_records = 0;
    std::uint64_t position = 0;  // of the chunk
    json chunk;                  // null before the first
  };

  void take(const wal::LogRecord& record) {
    if (seen_.chunks == 0 || record.chunk.position != seen_.position) {
      print_chunk();
      seen_.position = record.chunk.position;
      ++seen_.chunks;
      seen_.chunk = chunk_json(record.chunk);
    }
    ++seen_.records;
    json entry{{"number", raw(record.number)}, {"bytes", record.bytes.size()}};
    json& changes = entry["changes"] = json::array();
    const auto decoded = format::decode_record(record.bytes);
    if (!decoded) {
      entry["damage"] = decoded.error().what;
      ++seen_.damaged_records;
    } else {
      for (const format::Change& change : *decoded) {
        if (options_.block && !options_.block->matches(change.block)) continue;
        changes.push_back(change_json(change, options_.ranges));
      }
    }
    if (!options_.block || !changes.empty()) seen_.chunk["records"].push_back(std::move(entry));
  }

  void print_chunk() {
    if (seen_.chunk.is_null()) return;
    if (!options_.block || !seen_.chunk["records"].empty()) printer_.chunk(seen_.chunk);
    seen_.chunk = {};
  }

  // Says how the log ended; damage is no error of ours, everything else is.
  Status finish(std::uint32_t slot, std::optional<Error> error, wal::LogContents contents) {
    if (error && error->code != Errc::corrupt && error->code != Errc::version) {
      return fail(*std::move(error));
    }
    json end{{"record_count", seen_.records}, {"chunk_count", seen_.chunks}};
    if (!error && seen_.damaged_records > 0) {
      error = Error{Errc::corrupt, absl::StrCat("log of slot ", slot, " (", seen_.damaged_records,
                                                " records that do not decode)")};
    }
    if (error) {
      end["ended"] = "damaged";
      end["damage"] = error->message();
      ++report_.damaged;
    } else {
      const bool in_use = contents.header.state == format::LogState::in_use;
      end["position"] = contents.end;
      end["ended"] = contents.header.generation == 0 ? "never used"
                     : !in_use                       ? "empty"
                     : contents.torn                 ? "torn"
                                                     : "end";
    }
    report_.logs += error || seen_.records > 0 ? 1 : 0;
    printer_.end_log(end);
    seen_ = {};
    return {};
  }

  World world_;
  disk::VirtualDisk& disk_;
  const format::Superblock superblock_;
  const LogDumpOptions options_;
  Printer printer_;
  std::optional<lock::View> view_;
  Seen seen_;
  LogDumpReport report_;
};

}  // namespace

Result<BlockFilter> parse_block_filter(const std::string& text) {
  const std::size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon);
  std::uint64_t number = 0;
  const bool has_number = colon != text.npos && absl::SimpleAtoi(text.substr(colon + 1), &number);
  if (has_number && kind == "inode") return BlockFilter{format::inode_segment, number};
  if (has_number && kind == "piece") return BlockFilter{format::piece_segment, number};
  if (has_number && kind == "directory") return BlockFilter{format::directory_segment, number};
  if (has_number && kind == "orphans" && number < format::slot_limit) {
    return BlockFilter{format::orphan_segment(static_cast<std::uint32_t>(number)), std::nullopt};
  }
  return fail(Errc::invalid, absl::StrCat("\"", text,
                                          "\" is not inode:NUMBER, piece:NUMBER, directory:NUMBER "
                                          "or orphans:SLOT"));
}

Task<Result<LogDumpReport>> dump_logs(World world, disk::VirtualDisk& disk,
                                      format::Superblock superblock, LogDumpOptions options,
                                      std::function<void(std::string_view)> print) {
  LogDump dump(world, disk, std::move(superblock), std::move(options), std::move(print));
  co_return co_await dump.run();
}

}  // namespace plumeria::cli
