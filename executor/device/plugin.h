#pragma once

#include <string>
#include <vector>

#include "executor/cuda/abi.h"

// Finds and loads the CUDA plugin. Nothing of CUDA is touched before the first call.

namespace mpc::executor {

/// The plugin, or why there is none.
struct PluginOrReason {
  const mpc_cuda_plugin* plugin = nullptr;
  std::string path;    // the file it came from
  std::string reason;  // when there is none: where it was looked for and what was wrong
};

/// Loads libmpc_cuda.so from `path` when it is not empty, else from beside the program, then from ../lib of that
/// folder. The library stays loaded.
PluginOrReason load_plugin(const std::string& path);

/// The plugin of this process: load_plugin($MPC_CUDA_PLUGIN), done once.
const PluginOrReason& cuda_plugin();

/// What this machine offers to the CUDA backend.
struct CudaInventory {
  std::string plugin_path;
  std::vector<mpc_cuda_facts> devices;
  std::vector<mpc_cuda_library> libraries;
  std::string reason;  // why there are no devices; empty when there are
};
CudaInventory cuda_inventory();

/// Throws what an error of the plugin means: Error(M070) for memory, Error(M080) else. `where` names the device.
[[noreturn]] void throw_plugin_error(const mpc_cuda_error& error, const std::string& where);

}  // namespace mpc::executor
