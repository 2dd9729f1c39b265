#pragma once

#include <functional>
#include <string_view>

namespace mpc {

/// What a message is about; a sink of level n gets the messages of levels 1 to n.
enum class LogLevel : int { none = 0, choice = 1, phase = 2, detail = 3 };

using LogSink = std::function<void(LogLevel, std::string_view message)>;

/// Sends messages up to `level` to `sink` from here on; the library itself never prints. Without a sink (at the start,
/// or after LogLevel::none) messages cost one load. Thread-safe; the sink is called by one thread at a time.
void set_log_sink(LogLevel level, LogSink sink);
/// Would a message of this level be heard? Ask before building a costly one.
bool is_logged(LogLevel level);
void log(LogLevel level, std::string_view message);

}  // namespace mpc
