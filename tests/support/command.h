#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mpc::test {

/// How a program ended and what it wrote.
struct CommandResult {
  int exit_code = 0;  // -signal when it was killed by one
  std::string out;
  std::string err;
};

struct CommandOptions {
  std::string folder;               // the working folder; empty: this process's
  bool removes_folder = false;      // once the program's process stands in it
  int64_t address_space_bytes = 0;  // the most it may map; 0: any
  bool closes_stdout = false;       // the program starts without one
  std::string stdout_path;          // stdout goes there instead of into `out` (/dev/full, say)
  std::string signal_after;         // when this text stands in stdout, `signal_number` is sent once
  int signal_number = 0;
  bool reads_nothing = false;  // the reading end of stdout is closed at once: a reader that went away
};

/// Runs the program and waits for it. Its stdin is empty.
CommandResult run_program(const std::string& program, const std::vector<std::string>& arguments,
                          const CommandOptions& options = {});
/// Runs the `mpc` of this build.
CommandResult run_mpc(const std::vector<std::string>& arguments, const CommandOptions& options = {});

}  // namespace mpc::test
