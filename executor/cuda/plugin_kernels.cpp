// The kernel of a node: which one, and its calls.

#include "executor/cuda/libraries.h"
#include "executor/cuda/node.h"
#include "executor/cuda/plugin.h"
#include "executor/cuda/product_shape.h"

namespace mpc::cuda {
namespace {

/// What a library found, or the plugin's own kernel with the reason why the library declined.
KernelOrReason or_own_kernel(KernelOrReason found, const executor::NodeSpec& node, const MakeOptions& options) {
  if (found.kernel != nullptr) return found;
  KernelOrReason own = find_own_kernel(node, options);
  if (own.kernel == nullptr) {
    own.reason = found.reason.empty() ? own.reason : found.reason + "; " + own.reason;
  } else {
    own.reason = found.reason;
  }
  return own;
}

/// The libraries' kernel where there is one, then the plugin's own.
KernelOrReason find_kernel(const OwnedNode& node, mpc_cuda_device* device) {
  MakeOptions options;
  options.allows_tf32 = node.allows_tf32;
  options.product = [device](const executor::NodeSpec& spec, const MakeOptions& given) {
    return or_own_kernel(cublaslt_product(spec, given, device->cublaslt), spec, given);
  };
  if (is_product(node.spec)) return options.product(node.spec, options);
  if (node.spec.op == OpKind::Elementwise) {
    return or_own_kernel(nvrtc_fused(node.spec, device->ordinal), node.spec, options);
  }
  if (!is_for_cudnn(node.spec.op)) return find_own_kernel(node.spec, options);
  library(LibraryName::cublaslt);  // cuDNN looks for it among what is loaded
  library(LibraryName::nvrtc);
  return or_own_kernel(cudnn_kernel(node.spec, options, device->cudnn), node.spec, options);
}

}  // namespace

int32_t make_kernel(mpc_cuda_device* device, const mpc_cuda_node* node, mpc_cuda_kernel** kernel,
                    mpc_cuda_error* error) {
  return guarded(device->ordinal, error, [&] {
    const OwnedNode owned(*node);
    KernelOrReason found = find_kernel(owned, device);
    if (found.kernel == nullptr) throw DeviceError(MPC_CUDA_UNSUPPORTED, false, found.reason);
    auto made = std::make_unique<mpc_cuda_kernel>();
    made->device = device;
    made->name = std::string(found.kernel->name());
    made->kernel = std::move(found.kernel);
    made->declined = std::move(found.reason);
    made->inputs = owned.spec.inputs.size();
    made->outputs = owned.spec.outputs.size();
    *kernel = made.release();
  });
}

int64_t kernel_workspace(const mpc_cuda_kernel* kernel) {
  return kernel->kernel->workspace_bytes();
}
const char* kernel_name(const mpc_cuda_kernel* kernel) {
  return kernel->name.c_str();
}
const char* kernel_declined(const mpc_cuda_kernel* kernel) {
  return kernel->declined.c_str();
}

int32_t run_kernel(mpc_cuda_kernel* kernel, mpc_cuda_stream* stream, const mpc_cuda_call* call, mpc_cuda_error* error) {
  return guarded(kernel->device->ordinal, error, [&] {
    Launch launch;
    launch.inputs = {call->inputs, kernel->inputs};
    launch.outputs = {call->outputs, kernel->outputs};
    launch.workspace = call->workspace;
    launch.step = call->step;
    launch.microbatch = call->microbatch;
    launch.tag = call->tag;
    launch.stream = {stream->stream};
    kernel->kernel->run(launch);
  });
}

void destroy_kernel(mpc_cuda_kernel* kernel) {
  released(kernel->device->ordinal, [&] { delete kernel; });
}

}  // namespace mpc::cuda
