#include "base/log.h"

#include <atomic>
#include <cstdio>

namespace plumeria {
namespace {

void to_stderr(Severity severity, std::string_view text) {
  if (severity < Severity::warning) return;
  std::fprintf(stderr, "plumeria: %.*s\n", static_cast<int>(text.size()), text.data());
}

std::atomic<LogSink> current_sink = to_stderr;

}  // namespace

LogSink set_log_sink(LogSink sink) { return current_sink.exchange(sink); }
void log_line(Severity severity, std::string_view text) { current_sink.load()(severity, text); }

}  // namespace plumeria
