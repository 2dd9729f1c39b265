#include "tests/cuda/fake_device.h"

// The fake device as a plugin that the program loads (MPC_CUDA_PLUGIN), for tests of the whole way through the CLI.

extern "C" __attribute__((visibility("default"))) const mpc_cuda_plugin* mpc_cuda_plugin_v1() {
  return mpc::test::fake_plugin();
}
