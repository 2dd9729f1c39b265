#pragma once

namespace mpc::tools {

/// Installs the handlers of SIGINT and SIGTERM (remove temporary files, end with 130 or 143) and ignores SIGPIPE, so
/// that a reader that went away is an error of the write.
void install_signal_handlers();

/// While one lives, the first SIGINT or SIGTERM is only noted, so that work can be saved; the second ends the process.
class DeferInterrupts {
 public:
  DeferInterrupts();
  ~DeferInterrupts();
  DeferInterrupts(const DeferInterrupts&) = delete;
  DeferInterrupts& operator=(const DeferInterrupts&) = delete;

  /// The signal that arrived, or 0.
  static int pending();
};

}  // namespace mpc::tools
