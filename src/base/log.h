// Messages to the operator: one line each, with a severity; where they go is decided in main().
//
// log_info(...) etc. take fmt-free text: build it with absl::StrCat. Threads: any.
#pragma once

#include <string_view>

namespace plumeria {

enum class Severity { debug, info, warning, error };

using LogSink = void (*)(Severity severity, std::string_view text);

// The sink must be thread-safe and outlive its use. The default drops everything below `warning`
// and writes the rest to standard error. Returns the sink before.
LogSink set_log_sink(LogSink sink);
void log_line(Severity severity, std::string_view text);

inline void log_debug(std::string_view text) { log_line(Severity::debug, text); }
inline void log_info(std::string_view text) { log_line(Severity::info, text); }
inline void log_warning(std::string_view text) { log_line(Severity::warning, text); }
inline void log_error(std::string_view text) { log_line(Severity::error, text); }

}  // namespace plumeria
