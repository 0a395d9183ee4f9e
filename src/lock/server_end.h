// How the last server of a store ended: the register `server_end_register`. After anything but a
// clean end the logs of all slots are replayed (serve/server.h).
#pragma once

#include <absl/strings/str_cat.h>

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"

namespace plumeria::lock {

constexpr const char* server_end_register = "server";

enum class ServerEnd : std::uint32_t {
  open = 1,    // a server runs, or ended in the middle
  closed = 2,  // everything was flushed
};

inline Bytes encode_server_end(ServerEnd end) {
  Writer writer;
  writer.put(end);
  return writer.take();
}

// `bytes` of a register that exists.
inline Result<ServerEnd> decode_server_end(ByteView bytes) {
  Reader reader(bytes);
  const auto end = reader.get<ServerEnd>();
  if (!reader.finished() || (end != ServerEnd::open && end != ServerEnd::closed)) {
    return fail(Errc::corrupt, absl::StrCat("register ", server_end_register));
  }
  return end;
}

}  // namespace plumeria::lock
