// How `status` and `umount` reach a running daemon: questions and answers in JSON on the
// transport's admin channel, over TCP (serve) or a Unix socket whose name follows from the path
// that it is about.
//
//   {"ask": "status"}   answered at once with the daemon's own report
//   {"ask": "locks"}    likewise, with the locks of programs (cli/lock_report.h); of serve alone
//   {"ask": "end"}      answered twice: {"waiting": true} at once, and when the daemon has ended
//   its
//                       work {"error": "…"} or {}
//   {"ask": "snapshot create", "name": …}, {"ask": "snapshot delete", "name": …}, and
//   {"ask": "snapshot list"}
//                       of a mount that holds its store: answered with {"error": …, "code": …} or
//                       what was asked for
#pragma once

#include <absl/functional/any_invocable.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/task.h"
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
  // Another question, whose answer may take a while.
  using Handler = std::function<Task<nlohmann::json>(nlohmann::json question)>;
  void answer_with(std::string question, Handler handler);
  // Tells those who wait for the end how it was, and gives them a moment to take it.
  Task<void> ended(World world, Status status);

 private:
  void answer(net::PeerId to, ByteView question);
  Task<void> answer_later(net::PeerId to, Task<nlohmann::json> answer);

  net::Transport& transport_;
  absl::AnyInvocable<nlohmann::json()> status_, locks_;
  std::map<std::string, Handler> handlers_;
  std::vector<net::PeerId> waiting_for_end_;
  TaskScope tasks_;
};

// Asks the daemon at `address` and waits for the answer. `wants_more`, if given, sees each answer
// and tells whether to wait for another. Errc::unavailable when nobody is there, or it went away
// without an answer.
Result<nlohmann::json> ask(const std::string& address, const nlohmann::json& question,
                           Duration patience,
                           std::function<bool(const nlohmann::json&)> wants_more = {});
inline Result<nlohmann::json> ask(const std::string& address, const char* question,
                                  Duration patience,
                                  std::function<bool(const nlohmann::json&)> wants_more = {}) {
  return ask(address, nlohmann::json{{"ask", question}}, patience, std::move(wants_more));
}

}  // namespace plumeria::cli
