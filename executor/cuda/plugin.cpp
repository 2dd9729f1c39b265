// The table of the plugin's functions (abi.h).

#include "executor/cuda/plugin.h"

namespace mpc::cuda {
namespace {

constexpr mpc_cuda_plugin kPlugin = {
    .version = MPC_CUDA_ABI_VERSION,
    .bytes = sizeof(mpc_cuda_plugin),
    .device_count = &device_count,
    .device_facts = &device_facts,
    .library = &list_library,
    .open = &open_device,
    .close = &close_device,
    .allocate = &allocate,
    .release = &release,
    .allocate_host = &allocate_host,
    .release_host = &release_host,
    .enable_peer = &enable_peer,
    .make_stream = &make_stream,
    .destroy_stream = &destroy_stream,
    .sync_stream = &sync_stream,
    .make_event = &make_event,
    .destroy_event = &destroy_event,
    .record = &record,
    .wait = &wait,
    .sync_event = &sync_event,
    .elapsed_ms = &elapsed_ms,
    .copy = &copy,
    .copy_peer = &copy_peer,
    .copy_nccl = &copy_nccl,
    .fill = &fill,
    .begin_capture = &begin_capture,
    .end_capture = &end_capture,
    .launch_graph = &launch_graph,
    .destroy_graph = &destroy_graph,
    .make_kernel = &make_kernel,
    .kernel_workspace = &kernel_workspace,
    .kernel_name = &kernel_name,
    .kernel_declined = &kernel_declined,
    .run_kernel = &run_kernel,
    .destroy_kernel = &destroy_kernel,
};

}  // namespace
}  // namespace mpc::cuda

extern "C" __attribute__((visibility("default"))) const mpc_cuda_plugin* mpc_cuda_plugin_v1() {
  return &mpc::cuda::kPlugin;
}
