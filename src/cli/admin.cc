#include "cli/admin.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <utility>

#include "base/async.h"
#include "base/checksum.h"
#include "base/log.h"

namespace plumeria::cli {
namespace {

constexpr Duration patience_at_end = 2s;
constexpr std::size_t question_max = 1000;  // bytes; what is longer is none of ours

std::string socket_folder() {
  const char* chosen = std::getenv("PLUMERIA_RUN");
  if (chosen != nullptr && *chosen != '\0') return chosen;
  if (::geteuid() == 0) return "/run/plumeria";
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime != '\0') return absl::StrCat(runtime, "/plumeria");
  return absl::StrCat("/tmp/plumeria-", ::geteuid());
}

void send_json(net::Transport& transport, net::PeerId to, const nlohmann::json& value) {
  // A name may be no UTF-8.
  const std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  transport.send(to, net::Channel::admin, to_bytes(as_bytes(text)), {});
}

struct Quiet {
  ~Quiet() { set_log_sink(before); }
  const LogSink before = set_log_sink([](Severity, std::string_view) {});
};

constexpr std::string_view unix_prefix = "unix:";

// Whether a process listens at this socket, or may do so: its file stays behind when it was killed.
bool listens(const std::string& path) {
  sockaddr_un where{};
  where.sun_family = AF_UNIX;
  if (path.size() >= sizeof where.sun_path) return false;
  std::copy(path.begin(), path.end(), where.sun_path);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket < 0) return true;
  const bool refused =
      ::connect(socket, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0 &&
      (errno == ECONNREFUSED || errno == ENOENT);
  ::close(socket);
  return !refused;
}

nlohmann::json parse(ByteView text) {
  return nlohmann::json::parse(as_text(text), nullptr, /*allow_exceptions=*/false);
}

}  // namespace

std::string admin_address(std::string_view path) {
  return absl::StrFormat("unix:%s/%016x.sock", socket_folder(), checksum(as_bytes(path)));
}

std::string admin_address_of_mount(const std::string& path) {
  return admin_address(absl::StrCat(path, " ", device_mounted_at(path).value_or("")));
}

AdminServer::AdminServer(net::Transport& transport, absl::AnyInvocable<nlohmann::json()> status,
                         absl::AnyInvocable<nlohmann::json()> locks)
    : transport_(transport), status_(std::move(status)), locks_(std::move(locks)) {
  transport_.on_message(net::Channel::admin,
                        [this](net::PeerId from, ByteView message) { answer(from, message); });
}

AdminServer::~AdminServer() { transport_.on_message(net::Channel::admin, {}); }

void AdminServer::listen_for(os::AsioTransport& transport, const std::string& path,
                             const std::string& address) {
  ::mkdir(socket_folder().c_str(), ::geteuid() == 0 ? 0755 : 0700);
  auto listening = transport.listen(address);
  if (!listening) {
    log_warning(
        absl::StrCat("`plumeria status ", path, "` will not work: ", listening.error().message()));
  }
}

void AdminServer::answer(net::PeerId to, ByteView question) {
  const nlohmann::json asked = parse(question.first(std::min(question.size(), question_max)));
  std::string what;
  if (asked.is_object() && asked.contains("ask") && asked["ask"].is_string()) what = asked["ask"];
  if (what == "status") {
    send_json(transport_, to, status_());
  } else if (what == "locks" && locks_) {
    send_json(transport_, to, locks_());
  } else if (what == "end") {
    waiting_for_end_.push_back(to);
    send_json(transport_, to, {{"waiting", true}});
  } else if (const auto handler = handlers_.find(what); handler != handlers_.end()) {
    tasks_.spawn(answer_later(to, handler->second(asked)));
  } else {
    transport_.disconnect(to, "an unknown question on the admin channel");
  }
}

void AdminServer::answer_with(std::string question, Handler handler) {
  handlers_.emplace(std::move(question), std::move(handler));
}

Task<void> AdminServer::answer_later(net::PeerId to, Task<nlohmann::json> answer) {
  const nlohmann::json result = co_await answer;
  send_json(transport_, to, result);
}

Task<void> AdminServer::ended(World world, Status status) {
  nlohmann::json result = nlohmann::json::object();
  if (!status) result["error"] = status.error().message();
  for (const net::PeerId peer : waiting_for_end_) send_json(transport_, peer, result);
  const auto under_way = [this] {
    return std::any_of(waiting_for_end_.begin(), waiting_for_end_.end(),
                       [this](net::PeerId peer) { return transport_.queued(peer) > 0; });
  };
  const TimePoint last = world.clock.now() + patience_at_end;
  do {
    co_await sleep_for(world, 1ms);
  } while (under_way() && world.clock.now() < last);
  waiting_for_end_.clear();
}

Result<nlohmann::json> ask(const std::string& address, const nlohmann::json& question,
                           Duration patience,
                           std::function<bool(const nlohmann::json&)> wants_more) {
  if (address.starts_with(unix_prefix)) {
    const std::string socket = address.substr(unix_prefix.size());
    if (!listens(socket)) {  // Spares waiting for it.
      return fail(Errc::unavailable, "no daemon of this machine");
    }
    if (::access(socket.c_str(), W_OK) != 0 && errno == EACCES) {
      return fail(Errc::access, "only its owner, mostly root, may ask the daemon");
    }
  }
  const Quiet quiet;  // What goes wrong is told once, in the result.
  os::RealExecutor executor;
  os::RealRandom random;
  os::AsioTransport transport(executor, random, {});
  Result<nlohmann::json> result = fail(Errc::unavailable, address);
  bool was_connected = false;
  bool done = false;
  const auto finish = [&] {
    done = true;
    executor.stop();
  };
  transport.on_message(net::Channel::admin, [&](net::PeerId, ByteView message) {
    result = parse(message);
    if (result->is_discarded()) result = fail(Errc::version, absl::StrCat(address, ": answer"));
    if (result && wants_more && wants_more(*result)) {
      result = fail(Errc::unavailable, absl::StrCat(address, " went away"));
    } else {
      finish();
    }
  });
  net::PeerId peer{};
  transport.on_connection(net::Channel::admin, [&](net::PeerId from, bool connected) {
    if (connected && !was_connected) {
      was_connected = true;
      send_json(transport, from, question);
    } else if (!connected && was_connected) {
      finish();
    }
  });
  peer = transport.connect(address);
  executor.at(executor.now() + patience, [&] {
    const std::string why = transport.last_error(peer);
    if (!why.empty()) result = fail(Errc::unavailable, absl::StrCat(address, " (", why, ")"));
    finish();
  });
  // One refusal is enough: who waits for a server to come asks again.
  std::function<void()> look = [&] {
    const std::string why = was_connected ? "" : transport.last_error(peer);
    if (!why.empty()) {
      result = fail(Errc::unavailable, absl::StrCat(address, " (", why, ")"));
      return finish();
    }
    executor.at(executor.now() + 20ms, [&] { look(); });
  };
  look();
  while (!done) executor.run();
  return result;
}

}  // namespace plumeria::cli
