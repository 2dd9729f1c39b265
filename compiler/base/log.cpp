#include "compiler/base/log.h"

#include <atomic>
#include <mutex>
#include <utility>

namespace mpc {
namespace {

struct State {
  std::atomic<LogLevel> level{LogLevel::none};
  std::mutex mutex;  // guards sink
  LogSink sink;
};

State& state() {
  static State instance;
  return instance;
}

}  // namespace

void set_log_sink(LogLevel level, LogSink sink) {
  const std::lock_guard lock(state().mutex);
  state().level = sink ? level : LogLevel::none;
  state().sink = std::move(sink);
}

bool is_logged(LogLevel level) {
  return level != LogLevel::none && level <= state().level.load(std::memory_order_relaxed);
}

void log(LogLevel level, std::string_view message) {
  if (!is_logged(level)) return;
  const std::lock_guard lock(state().mutex);
  if (is_logged(level)) state().sink(level, message);
}

}  // namespace mpc
