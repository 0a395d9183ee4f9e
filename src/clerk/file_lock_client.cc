#include "clerk/file_lock_client.h"

#include "base/number.h"

namespace plumeria::clerk {

using lock::FileLockKind;
using lock::FileLockResult;

namespace {

constexpr Duration again_after = 500ms;

}  // namespace

CallNumber FileLockClient::done_below() const {
  return calls_.empty() ? CallNumber{last_call_ + 1} : calls_.begin()->first;
}

void FileLockClient::send(const Call& call, Messages& out) const {
  lock::FileLockCall message = call.message;
  message.done_below = done_below();
  out.push_back(message);
  if (!call.cancelled) return;
  message.kind = FileLockKind::cancel;
  out.push_back(message);
}

CallNumber FileLockClient::begin(TimePoint now, FileLockKind kind, const FileLock& lock, bool wait,
                                 std::uint64_t request, Messages& out) {
  const CallNumber number{++last_call_};
  Call& call = calls_[number];
  call.message.call = number;
  call.message.kind = kind;
  call.message.wait = wait;
  call.message.lock = lock;
  call.request = request;
  send(call, out);
  if (again_at_ == TimePoint::max()) again_at_ = now + again_after;
  return number;
}

void FileLockClient::cancel(TimePoint now, std::uint64_t request, Messages& out) {
  for (auto& [number, call] : calls_) {
    if (call.request != request || request == 0 || call.cancelled) continue;
    call.cancelled = true;
    send(call, out);
    again_at_ = now + again_after;
    return;
  }
}

bool FileLockClient::answered(const lock::FileLockAnswer& answer) {
  auto at = calls_.find(answer.call);
  if (at == calls_.end()) return false;
  const lock::FileLockCall& call = at->second.message;
  const bool ok = answer.result == FileLockResult::ok;
  // A flock conversion has given the old lock up even if it was refused.
  const bool cleared =
      call.kind == FileLockKind::drop || (call.kind == FileLockKind::set && call.lock.is_flock);
  if (cleared) held_.erase(key_of(call.lock));
  if (call.kind == FileLockKind::set && ok) {
    auto& held = held_[key_of(call.lock)];
    lock::apply(held, call.lock);
    if (held.empty()) held_.erase(key_of(call.lock));
  }
  calls_.erase(at);
  if (calls_.empty()) again_at_ = TimePoint::max();
  return true;
}

bool FileLockClient::nothing_to_drop(const FileLock& lock) const {
  if (held_.contains(key_of(lock))) return false;
  for (const auto& [number, call] : calls_) {
    if (key_of(call.message.lock) == key_of(lock)) return false;
  }
  return true;
}

void FileLockClient::ask_again(TimePoint now, Messages& out) {
  for (const auto& [number, call] : calls_) send(call, out);
  if (!calls_.empty()) again_at_ = now + again_after;
}

void FileLockClient::tick(TimePoint now, Messages& out) {
  if (now >= again_at_) ask_again(now, out);
}

TimePoint FileLockClient::next_tick() const { return again_at_; }

std::vector<FileLock> FileLockClient::held() const {
  std::vector<FileLock> all;
  for (const auto& [key, held] : held_) all.insert(all.end(), held.begin(), held.end());
  return all;
}

std::vector<CallNumber> FileLockClient::lose() {
  std::vector<CallNumber> numbers;
  for (const auto& [number, call] : calls_) numbers.push_back(number);
  calls_.clear();
  held_.clear();
  again_at_ = TimePoint::max();
  return numbers;
}

}  // namespace plumeria::clerk
