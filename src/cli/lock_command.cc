// plumeria lock exclusive|shared NAME -- CMD [ARG...]
#include <absl/strings/str_cat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <optional>

#include "base/async.h"
#include "base/log.h"
#include "base/number.h"
#include "clerk/clerk.h"
#include "cli/child_command.h"
#include "cli/command.h"
#include "cli/lock_store.h"
#include "cli/runtime.h"
#include "os/asio_transport.h"

namespace plumeria::cli {
namespace {

constexpr Duration join_patience = 10s;
constexpr Duration end_patience = 5s;  // from SIGTERM to SIGKILL

struct Arguments {
  std::string store, table{default_table}, name, mode;
  std::optional<double> patience_seconds;
  bool is_try = false;
  std::vector<std::string> command;
};

// The lock, and the command that runs under it.
class Holder final : public clerk::RevokeHandler {
 public:
  Holder(Runtime& runtime, const Arguments& arguments, std::string address)
      : world_(runtime.world()),
        arguments_(arguments),
        address_(std::move(address)),
        transport_(runtime.executor, runtime.random, {.retry_max = reconnect_pause_max}),
        clerk_(world_, transport_, transport_.connect(address_), options(arguments)),
        child_(runtime.executor),
        changed_(runtime.executor) {
    clerk_.set_handler(this);
    runtime.on_signal([this](int signal) { signalled(signal); });
  }

  Task<int> run() {
    Result<clerk::Membership> joined = co_await clerk_.join(join_patience);
    is_joined_ = joined.has_value();
    if (!joined) co_return static_cast<int>(complain(joined.error()));
    Task<Result<clerk::Pin>> acquiring = acquire();
    Result<clerk::Pin> pin = co_await acquiring;
    int code = 0;
    if (signal_ != 0) {
      code = 128 + signal_;
    } else if (!pin) {
      complain(pin.error().message());
      code = static_cast<int>(is_lost_ ? Exit::lost : Exit::in_use);
    } else {
      Task<int> running = run_command();
      code = co_await running;
      pin->drop();
    }
    // Whoever cannot be told finds out when the lease has run out.
    Task<Status> leaving = clerk_.leave();
    Status left = co_await leaving;
    (void)left;
    co_return code;
  }

 private:
  static clerk::ClerkOptions options(const Arguments& arguments) {
    clerk::ClerkOptions options;
    char host[256] = "localhost";
    ::gethostname(host, sizeof host - 1);
    options.label = absl::StrCat(host, ":", ::getpid(), " ", arguments.command[0]);
    options.has_log = false;
    return options;
  }

  Task<Result<clerk::Pin>> acquire() {
    const lock::ProgramName called{arguments_.table, arguments_.name};
    const lock::LockName name = clerk_.program_lock(called);
    const lock::Mode mode =
        arguments_.mode == "shared" ? lock::Mode::shared : lock::Mode::exclusive;
    scope_.spawn(wait_for_lock(name, mode));
    const TimePoint until = deadline();
    while (!answer_ && signal_ == 0 && world_.clock.now() < until) {
      TimerId timer{};
      if (until != TimePoint::max()) {
        timer = world_.executor.at(until, [this] { changed_.notify_all(); });
      }
      co_await changed_.next();
      if (timer != TimerId::none) world_.executor.cancel(timer);
    }
    if (answer_ && *answer_) fence_ = clerk_.fence(name);
    if (answer_ && !*answer_ && answer_->error().code != Errc::again) {
      co_return fail(answer_->error());
    }
    if (answer_ && *answer_) co_return std::move(*answer_);
    co_return fail(Errc::again, absl::StrCat(arguments_.table, "/", arguments_.name,
                                             " is held by somebody else"));
  }

  Task<void> wait_for_lock(lock::LockName name, lock::Mode mode) {
    Task<Result<clerk::Pin>> waiting =
        arguments_.is_try ? clerk_.try_acquire(name, mode) : clerk_.acquire(name, mode);
    Result<clerk::Pin> pin = co_await waiting;
    answer_.emplace(std::move(pin));
    changed_.notify_all();
  }

  TimePoint deadline() const {
    if (!arguments_.patience_seconds) return TimePoint::max();
    const auto patience =
        std::chrono::milliseconds(static_cast<std::int64_t>(*arguments_.patience_seconds * 1000));
    return world_.clock.now() + patience;
  }

  Task<int> run_command() {
    const std::vector<std::string> variables = {absl::StrCat("PLUMERIA_FENCE=", fence_),
                                                absl::StrCat("PLUMERIA_STORE=", address_)};
    while (is_suspended_ && !is_lost_ && signal_ == 0) co_await changed_.next();
    if (signal_ != 0) co_return 128 + signal_;
    if (is_lost_) {
      complain(absl::StrCat("the lock ", arguments_.table, "/", arguments_.name,
                            " was lost before ", arguments_.command[0], " began"));
      co_return static_cast<int>(Exit::lost);
    }
    const Status started =
        child_.start(arguments_.command, variables, [this] { changed_.notify_all(); });
    if (!started) co_return static_cast<int>(complain(started.error()));
    while (child_.runs()) co_await changed_.next();
    if (kill_timer_ != TimerId::none) world_.executor.cancel(kill_timer_);
    co_return is_lost_ ? static_cast<int>(Exit::lost) : child_.exit_code();
  }

  void signalled(int signal) {
    // At a terminal the command has got its own ^C, and decides itself.
    if (child_.runs() && (signal != SIGINT || ::isatty(STDIN_FILENO) == 0)) child_.signal(signal);
    if (child_.runs()) return;
    if (!is_joined_) ::_exit(128 + signal);  // There is nothing to give back.
    signal_ = signal;
    changed_.notify_all();
  }

  // ---- Of the lock ----

  void revoke_begins(lock::LockName, lock::Mode) override {}
  Task<void> give_up(lock::LockName, lock::Mode) override { co_return; }
  void revoke_ended(lock::LockName, lock::Mode) override {}
  bool may_take(lock::LockName) override { return false; }
  // The lease may be over soon, and others have the lock: nothing is done under it until we know.
  Task<void> suspended(TimePoint) override {
    is_suspended_ = true;
    child_.signal(SIGSTOP);
    co_return;
  }
  void resumed() override {
    is_suspended_ = false;
    child_.signal(SIGCONT);
    changed_.notify_all();
  }
  void lost(std::string_view reason) override {
    is_lost_ = true;
    changed_.notify_all();
    if (!child_.runs()) return;
    complain(absl::StrCat("the lock ", arguments_.table, "/", arguments_.name, " is lost: ",
                          std::string(reason), "; ", arguments_.command[0], " is ended"));
    child_.signal(SIGTERM);
    child_.signal(SIGCONT);
    kill_timer_ = world_.executor.at(world_.clock.now() + end_patience, [this] {
      kill_timer_ = TimerId::none;
      child_.signal(SIGKILL);
    });
  }

  const World world_;
  const Arguments& arguments_;
  const std::string address_;
  os::AsioTransport transport_;
  clerk::Clerk clerk_;
  ChildCommand child_;
  Event changed_;
  std::optional<Result<clerk::Pin>> answer_;
  std::uint64_t fence_ = 0;
  int signal_ = 0;
  bool is_joined_ = false, is_suspended_ = false, is_lost_ = false;
  TimerId kill_timer_{};
  TaskScope scope_;
};

void run(const Arguments& arguments, int& code) {
  auto address = lock_store(arguments.store);
  if (!address) {
    code = static_cast<int>(complain(address.error()));
    return;
  }
  if (!lock::is_valid({arguments.table, arguments.name})) {
    complain("a name has 1 to 4096 bytes, the name of a table 1 to 255");
    code = static_cast<int>(Exit::usage);
    return;
  }
  Runtime runtime;
  Holder holder(runtime, arguments, *address);
  code = runtime.executor.run_until_done(holder.run());
}

}  // namespace

void add_lock(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("lock", "Run a command while it holds a lock that other machines see");
  command->footer(
      "Waits for the lock, then runs the command and exits as it does. PLUMERIA_FENCE is a number "
      "that\n"
      "grows with every grant: what the command writes to can refuse a smaller one than it has "
      "seen.\n"
      "  plumeria lock exclusive nightly-backup --store 192.0.2.1:7411 -- backup /srv\n"
      "Exit codes: those of the command; 3 not obtained (--try, --timeout); 5 nobody answers; 7 "
      "the\n"
      "lease was lost and the command ended; 126, 127 the command cannot be run.");
  command->add_option("MODE", arguments->mode, "exclusive, or shared with others that are shared")
      ->required()
      ->check(CLI::IsMember({"exclusive", "shared"}))
      ->type_name("");
  command->add_option("NAME", arguments->name, "of the lock, up to 4096 bytes")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_option("COMMAND", arguments->command, "the command and its arguments, after --")
      ->required()
      ->type_name("");
  add_lock_options(*command, arguments->store, arguments->table);
  auto* timeout = command
                      ->add_option("--timeout", arguments->patience_seconds,
                                   "how long to wait for the lock (default: for ever)")
                      ->check(seconds_between(0, 1e9))
                      ->type_name("SECONDS");
  command->add_flag("--try", arguments->is_try, "do not wait")->excludes(timeout);
  command->callback([arguments, &exit] {
    int code = 0;
    run(*arguments, code);
    exit = static_cast<Exit>(code);
  });
}

}  // namespace plumeria::cli
