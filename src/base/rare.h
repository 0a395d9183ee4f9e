// Marks for paths that run rarely: the simulator reports those that its runs never reached.
//
//   if (!queue.empty()) rarely<"log: an operation waits for room">();
//
// Costs one addition where it stands. Each text is one mark, wherever it is used. Any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace plumeria {

// A text as a template argument.
template <std::size_t size>
struct MarkText {
  char text[size];
  constexpr MarkText(const char (&literal)[size]) { std::copy_n(literal, size, text); }
};

// One mark of this program; all of them are known from its start on.
class RareMark {
 public:
  explicit RareMark(std::string_view text);
  void reached() { times_.fetch_add(1, std::memory_order_relaxed); }

  std::string_view text() const { return text_; }
  std::uint64_t times() const { return times_.load(std::memory_order_relaxed); }
  const RareMark* next() const { return next_; }

 private:
  std::string_view text_;
  std::atomic<std::uint64_t> times_ = 0;
  const RareMark* next_;
};

// All marks, linked by next(), in no order; null if there are none.
const RareMark* rare_marks();

template <MarkText text>
inline RareMark rare_mark{std::string_view(text.text)};

template <MarkText text>
void rarely() {
  rare_mark<text>.reached();
}

}  // namespace plumeria
