// How `status` and `umount` reach a running daemon: questions and answers in JSON on the
// transport's admin channel, over TCP (serve) or a Unix socket whose name follows from the path
// that it is about.
//
//   {"ask": "status"}   answered at once with the daemon's own report
//   {"ask": "locks"}    likewise, with the locks of programs (cli/lock_report.h); of serve alone
//   {"ask": "end"}      answered twice: {"waiting": true} at once, and when the daemon has ended
//   its
//                       work {"error": "…"} or {}
#pragma once

#include <absl/functional/any_invocable.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "cli/runtime.h"
#include "net/transport.h"
#include "os/asio_transport.h"

namespace plumeria::cli {

// Of a store: "unix:…/<hash of the path>.sock", in $PLUMERIA_RUN, else for root in /run/plumeria.
std::string admin_address(std::string_view path);
// Of what is mounted there now: one that was detached, and whose daemon lives on, has another.
std::string admin_address_of_mount(const std::string& path);

class AdminServer {
 public:
  // Answers on all connections of `transport`, which outlives it.
  AdminServer(net::Transport& transport, absl::AnyInvocable<nlohmann::json()> status,
              absl::AnyInvocable<nlohmann::json()> locks = {});
  ~AdminServer();
  // Also listens for those who ask about `path` on this machine. A failure is logged only: the
  // daemon works without.
  static void listen_for(os::AsioTransport& transport, const std::string& path,
                         const std::string& address);
  // Tells those who wait for the end how it was, and gives them a moment to take it.
  Task<void> ended(World world, Status status);

 private:
  void answer(net::PeerId to, ByteView question);

  net::Transport& transport_;
  absl::AnyInvocable<nlohmann::json()> status_, locks_;
  std::vector<net::PeerId> waiting_for_end_;
};

// Asks the daemon at `address` and waits for the answer. `wants_more`, if given, sees each answer
// and tells whether to wait for another. Errc::unavailable when nobody is there, or it went away
// without an answer.
Result<nlohmann::json> ask(const std::string& address, std::string_view question, Duration patience,
                           std::function<bool(const nlohmann::json&)> wants_more = {});

}  // namespace plumeria::cli
