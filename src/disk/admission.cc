#include "disk/admission.h"

#include <absl/strings/str_cat.h>

#include "base/checksum.h"
#include "base/fault.h"
#include "base/number.h"

namespace plumeria::disk {

namespace {

constexpr std::uint64_t magic = 0x3153455341454c50;  // "PLEASES1"

}  // namespace

bool Admission::is_fenced(lock::LeaseNumber lease) const {
  auto run = fenced_.upper_bound(raw(lease));
  if (run == fenced_.begin()) return false;
  --run;
  return raw(lease) <= run->second;
}

Status Admission::admit(lock::LeaseNumber lease) {
  if (admitted_.contains(lease)) return {};
  if (lease == lock::LeaseNumber::none || is_fenced(lease)) {
    return fail(Errc::fenced, absl::StrCat("lease ", raw(lease)));
  }
  admitted_.insert(lease);
  return {};
}

bool Admission::fence(lock::LeaseNumber lease) {
  const std::uint64_t number = raw(lease);
  if (number == 0 || (is_fenced(lease) && !admitted_.contains(lease))) return false;
  admitted_.erase(lease);
  std::uint64_t first = number, last = number;
  auto next = fenced_.upper_bound(number);
  if (next != fenced_.begin()) {
    const auto before = std::prev(next);
    if (before->second + 1 >= number) {
      first = before->first;
      last = std::max(last, before->second);
      fenced_.erase(before);
    }
  }
  if (next != fenced_.end() && next->first - 1 == last) {
    last = next->second;
    fenced_.erase(next);
  }
  fenced_.emplace(first, last);
  if (fenced_.size() > runs_max) {
    const auto lowest = fenced_.begin();
    const auto second = std::next(lowest);
    lowest->second = second->second;
    fenced_.erase(second);
  }
  return true;
}

Status Admission::check(lock::LeaseNumber lease) {
  if (admitted_.contains(lease)) return {};
  LateChanges& late = late_[lease];
  ++late.tried;
  if (planted(Fault::no_fence)) return {};
  ++late.refused;
  if (late_.size() > late_max) late_.erase(late_.begin());
  return fail(Errc::fenced, absl::StrCat("lease ", raw(lease)));
}

// magic, number of admitted leases, these; number of fenced runs, these; checksum of all before.
Bytes Admission::encode() const {
  Writer writer;
  writer.put(magic);
  writer.put(static_cast<std::uint64_t>(admitted_.size()));
  for (const lock::LeaseNumber lease : admitted_) writer.put(lease);
  writer.put(static_cast<std::uint64_t>(fenced_.size()));
  for (const auto& [first, last] : fenced_) {
    writer.put(first);
    writer.put(last);
  }
  writer.put(checksum(writer.view()));
  return writer.take();
}

Result<Admission> Admission::decode(ByteView bytes) {
  const auto damaged = [] { return fail(Errc::corrupt, "list of leases"); };
  if (bytes.size() < 8) return damaged();
  const ByteView body = bytes.first(bytes.size() - 8);
  if (load<std::uint64_t>(bytes.data() + body.size()) != checksum(body)) return damaged();
  Reader reader(body);
  if (reader.get<std::uint64_t>() != magic) return damaged();
  Admission admission;
  const auto admitted = reader.get<std::uint64_t>();
  for (std::uint64_t i = 0; i < admitted && reader.ok(); ++i) {
    admission.admitted_.insert(reader.get<lock::LeaseNumber>());
  }
  const auto runs = reader.get<std::uint64_t>();
  for (std::uint64_t i = 0; i < runs && reader.ok(); ++i) {
    const auto first = reader.get<std::uint64_t>();
    admission.fenced_.emplace(first, reader.get<std::uint64_t>());
  }
  if (!reader.finished()) return damaged();
  return admission;
}

}  // namespace plumeria::disk
