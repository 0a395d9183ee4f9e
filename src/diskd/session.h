// At-most-once execution of one client's requests: which of them are under way, and the answers
// that the client may not have yet.
//
// Pure: no I/O, no time. Invariant: a request number is executed once at most, except those whose
// answers are not kept because repeating them is harmless (forget()).
#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "base/bytes.h"

namespace plumeria::diskd {

class Session {
 public:
  enum class Arrival {
    execute,   // it is new: end it with answered() or forget()
    repeat,    // send answer() again
    ignore,    // it is under way, or the client has its answer
    too_many,  // more than the bounds allow: end the connection
  };

  Session(std::size_t requests_max, std::uint64_t bytes_max)
      : requests_max_(requests_max), bytes_max_(bytes_max) {}

  // `answered_below`: the client has the answers of all lower numbers. `bytes`: of memory that the
  // request needs while it is under way.
  Arrival arrive(std::uint64_t number, std::uint64_t answered_below, std::uint64_t bytes);
  void answered(std::uint64_t number, Bytes answer);
  void forget(std::uint64_t number);
  // Requires: arrive() has just said `repeat`.
  const Bytes& answer(std::uint64_t number) const;

  std::size_t under_way() const { return under_way_.size(); }
  std::size_t remembered() const { return answers_.size(); }

 private:
  void end(std::uint64_t number);

  const std::size_t requests_max_;
  const std::uint64_t bytes_max_;
  std::uint64_t answered_below_ = 0;
  std::map<std::uint64_t, std::uint64_t> under_way_;  // number → bytes
  std::uint64_t bytes_ = 0;                           // their sum
  std::map<std::uint64_t, Bytes> answers_;
};

}  // namespace plumeria::diskd
