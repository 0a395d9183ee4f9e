#include "lock/view.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/checksum.h"
#include "base/number.h"

namespace plumeria::lock {
namespace {

constexpr std::uint32_t magic = 0x57564c50;  // "PLVW"
constexpr std::uint16_t layout_version = 1;
constexpr std::uint64_t checksum_seed = magic;
constexpr std::size_t checksum_size = 8;
constexpr std::uint8_t flag_server = 1;
constexpr std::uint8_t flag_in_process = 2;

Error corrupt(const std::string& why) {
  return Error{Errc::corrupt, absl::StrCat("register view: ", why)};
}

bool known(LeaseState state) {
  return state == LeaseState::live || state == LeaseState::expired ||
         state == LeaseState::recovering;
}

// The invariants of the header.
Status check(const View& view) {
  std::set<std::uint32_t> slots;
  LeaseNumber before = LeaseNumber::none;
  for (const LeaseRecord& record : view.leases) {
    if (!known(record.state)) return fail(corrupt("unknown state of a lease"));
    if (record.lease <= before || record.lease >= view.next_lease) {
      return fail(corrupt("lease numbers out of order"));
    }
    before = record.lease;
    if (record.slot != no_slot && !slots.insert(record.slot).second) {
      return fail(corrupt(absl::StrCat("slot ", record.slot, " has two leases")));
    }
  }
  return {};
}

}  // namespace

const char* state_name(LeaseState state) {
  switch (state) {
    case LeaseState::live:
      return "live";
    case LeaseState::expired:
      return "expired";
    case LeaseState::recovering:
      return "recovering";
  }
  return "?";
}

const LeaseRecord* View::find(LeaseNumber lease) const {
  auto at = std::lower_bound(leases.begin(), leases.end(), lease,
                             [](const LeaseRecord& r, LeaseNumber n) { return r.lease < n; });
  return at != leases.end() && at->lease == lease ? &*at : nullptr;
}

LeaseRecord* View::find(LeaseNumber lease) {
  return const_cast<LeaseRecord*>(std::as_const(*this).find(lease));
}

const LeaseRecord* View::find_instance(std::uint64_t instance) const {
  for (const LeaseRecord& record : leases) {
    if (record.instance == instance && !record.is_server) return &record;
  }
  return nullptr;
}

LeaseRecord& View::add(LeaseRecord record) {
  record.lease = next_lease;
  if (record.label.size() > label_size_max) record.label.resize(label_size_max);
  next_lease = LeaseNumber{raw(next_lease) + 1};
  leases.push_back(std::move(record));
  return leases.back();
}

void View::remove(LeaseNumber lease) {
  std::erase_if(leases, [lease](const LeaseRecord& r) { return r.lease == lease; });
}

std::uint32_t View::lowest_free_slot() const {
  std::set<std::uint32_t> used;
  for (const LeaseRecord& record : leases) used.insert(record.slot);
  std::uint32_t slot = 0;
  while (used.contains(slot)) ++slot;
  return slot;
}

Bytes encode_view(const View& view) {
  CHECK(check(view).has_value());
  Writer writer;
  writer.put(magic);
  writer.put(layout_version);
  writer.put(std::uint16_t{0});
  writer.put(view.epoch);
  writer.put(view.next_lease);
  writer.put(static_cast<std::int64_t>(view.lease_duration.count()));
  writer.put(view.features);
  writer.put(static_cast<std::uint32_t>(view.leases.size()));
  for (const LeaseRecord& record : view.leases) {
    writer.put(record.lease);
    writer.put(record.state);
    std::uint8_t flags = 0;
    if (record.is_server) flags |= flag_server;
    if (record.in_process) flags |= flag_in_process;
    writer.put(flags);
    writer.put(record.slot);
    writer.put(record.instance);
    writer.put(record.recoverer);
    writer.put_text(record.label);
  }
  writer.put(checksum(writer.view(), checksum_seed));
  return writer.take();
}

Result<View> decode_view(ByteView bytes) {
  Reader reader(bytes);
  if (reader.get<std::uint32_t>() != magic) return fail(corrupt("no magic"));
  const auto version = reader.get<std::uint16_t>();
  if (bytes.size() < checksum_size) return fail(corrupt("too short"));
  const ByteView body = bytes.first(bytes.size() - checksum_size);
  if (load<std::uint64_t>(bytes.data() + body.size()) != checksum(body, checksum_seed)) {
    return fail(corrupt("wrong checksum"));
  }
  if (version != layout_version) {
    return fail(Errc::version, absl::StrCat("register view has layout ", version,
                                            ", this program knows ", layout_version));
  }
  reader = Reader(body);
  reader.get_raw(8);
  View view;
  view.epoch = reader.get<Epoch>();
  view.next_lease = reader.get<LeaseNumber>();
  view.lease_duration = Duration(reader.get<std::int64_t>());
  view.features = reader.get<std::uint64_t>();
  const auto count = reader.get<std::uint32_t>();
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    LeaseRecord record;
    record.lease = reader.get<LeaseNumber>();
    record.state = reader.get<LeaseState>();
    const auto flags = reader.get<std::uint8_t>();
    record.is_server = (flags & flag_server) != 0;
    record.in_process = (flags & flag_in_process) != 0;
    record.slot = reader.get<std::uint32_t>();
    record.instance = reader.get<std::uint64_t>();
    record.recoverer = reader.get<LeaseNumber>();
    record.label = reader.get_text();
    view.leases.push_back(std::move(record));
  }
  if (!reader.finished()) return fail(corrupt("wrong length"));
  if (view.lease_duration < Duration::zero()) return fail(corrupt("negative lease duration"));
  TRY_STATUS(check(view));
  return view;
}

}  // namespace plumeria::lock
