#include "tools/signals.h"

#include <unistd.h>

#include <csignal>

#include "compiler/base/file.h"

namespace mpc::tools {
namespace {

volatile std::sig_atomic_t deferring = 0;
volatile std::sig_atomic_t pending_signal = 0;

// Only async-signal-safe calls here.
extern "C" void on_signal(int signal_number) {
  if (deferring != 0 && pending_signal == 0) {
    pending_signal = signal_number;
    return;
  }
  remove_temporary_files();
  constexpr char kLine[] = "mpc: error[M130] interrupted\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kLine, sizeof(kLine) - 1);
  constexpr int kSignalExitBase = 128;
  _exit(kSignalExitBase + signal_number);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

DeferInterrupts::DeferInterrupts() {
  deferring = 1;
}
DeferInterrupts::~DeferInterrupts() {
  deferring = 0;
}
int DeferInterrupts::pending() {
  return pending_signal;
}

}  // namespace mpc::tools
