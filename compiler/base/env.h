#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace mpc {

/// The debugging aids that the environment switches on (docs/env.md). None changes results.
struct Environment {
  int log_level = 0;             // MPC_LOG: 0 none, 1 choices and warnings, 2 each pass and phase, 3 everything
  std::string dump_dir;          // MPC_DUMP_DIR: where every pass leaves its graph; empty: nowhere
  bool times_passes = false;     // MPC_TIME_PASSES
  bool verifies_passes = false;  // MPC_VERIFY: check the graph after every pass; on in builds with assertions
  std::string cuda_cache;   // MPC_CUDA_CACHE: where compiled kernels are kept; "none"; empty: the user's cache folder
  std::string cuda_libs;    // MPC_CUDA_LIBS: where CUDA's libraries are looked for first; empty: nowhere
  std::string cuda_plugin;  // MPC_CUDA_PLUGIN: the CUDA plugin to load; empty: the one beside the program
  std::string trace_path;   // MPC_TRACE: where a run leaves its trace; empty: nowhere
};

/// One row of the table of variables.
struct EnvironmentVariable {
  std::string_view name;
  std::string_view values;
  std::string_view meaning;
};

/// Every variable mpc reads, sorted by name.
std::span<const EnvironmentVariable> environment_variables();

/// Reads the variables through `look_up` (std::getenv in the CLI). @throws Error(M003) naming a variable with a value
/// it cannot have.
Environment read_environment(const std::function<const char*(const char*)>& look_up);

}  // namespace mpc
