// The plugin's functions (abi.h) over the CUDA runtime. Every function makes its device current first: callers have
// threads of their own.

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include "compiler/base/error.h"
#include "executor/cuda/abi.h"
#include "executor/cuda/copy_text.h"
#include "executor/cuda/error.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/library_kernels.h"
#include "executor/cuda/nccl.h"
#include "executor/cuda/node.h"
#include "executor/cuda/product_shape.h"

struct mpc_cuda_device {
  int ordinal = 0;
  mpc::cuda::LibraryHandle cublaslt;
  mpc::cuda::LibraryHandle cudnn;
};

struct mpc_cuda_stream {
  mpc_cuda_device* device = nullptr;
  cudaStream_t stream = nullptr;
  std::unique_ptr<mpc::cuda::NcclLink> nccl;  // made by the first copy_nccl
};

struct mpc_cuda_event {
  mpc_cuda_device* device = nullptr;
  cudaEvent_t event = nullptr;
};

struct mpc_cuda_graph {
  mpc_cuda_device* device = nullptr;
  cudaGraphExec_t graph = nullptr;
};

struct mpc_cuda_kernel {
  mpc_cuda_device* device = nullptr;
  std::unique_ptr<mpc::cuda::Kernel> kernel;
  size_t inputs = 0;
  size_t outputs = 0;
  std::string name;
  std::string declined;
};

namespace mpc::cuda {
namespace {

int32_t fill_error(mpc_cuda_error* error, int32_t code, bool is_sticky, const std::string& text, int ordinal) {
  error->code = code;
  error->is_sticky = is_sticky ? 1 : 0;
  error->free_bytes = -1;
  copy_text(error->text, text);
  if (code == MPC_CUDA_OUT_OF_MEMORY && ordinal >= 0) {
    size_t free = 0;
    size_t total = 0;
    if (cudaMemGetInfo(&free, &total) == cudaSuccess) error->free_bytes = static_cast<int64_t>(free);
  }
  return code;
}

/// Runs `f` with the device current; what it throws becomes a code. @param ordinal -1: no device.
template <class F>
int32_t guarded(int ordinal, mpc_cuda_error* error, F&& f) {
  const std::string where = ordinal < 0 ? "" : "GPU " + std::to_string(ordinal) + ": ";
  try {
    if (ordinal >= 0) MPC_CUDA(cudaSetDevice(ordinal));
    f();
    return MPC_CUDA_OK;
  } catch (const DeviceError& e) {
    return fill_error(error, e.code(), e.is_sticky(), where + e.what(), ordinal);
  } catch (const Error& e) {
    return fill_error(error, e.code() == MPC_CUDA_UNSUPPORTED ? MPC_CUDA_UNSUPPORTED : MPC_CUDA_FAILED, false,
                      where + e.what(), ordinal);
  } catch (const std::exception& e) {
    return fill_error(error, MPC_CUDA_FAILED, false, where + e.what(), ordinal);
  }
}

/// For functions that cannot report: releasing must not fail, and after a sticky error there is nothing to release.
template <class F>
void released(int ordinal, F&& f) {
  if (cudaSetDevice(ordinal) == cudaSuccess) f();
  cudaGetLastError();
}

int32_t device_count(int32_t* count, mpc_cuda_error* error) {
  *count = 0;
  return guarded(-1, error, [&] {
    int driver = 0;
    int runtime = 0;
    MPC_CUDA(cudaRuntimeGetVersion(&runtime));
    const cudaError_t asked = cudaDriverGetVersion(&driver);
    const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
    if (asked != cudaSuccess || driver == 0) {
      cudaGetLastError();
      throw DeviceError(MPC_CUDA_FAILED, false, "no NVIDIA driver: libcuda.so.1 cannot be loaded");
    }
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status == cudaErrorInsufficientDriver) {
      cudaGetLastError();
      throw DeviceError(MPC_CUDA_FAILED, false,
                        "the NVIDIA driver is too old: it is for CUDA " + version(driver) + ", this plugin for CUDA " +
                            version(runtime));
    }
    if (status == cudaErrorNoDevice) {
      cudaGetLastError();
      return;
    }
    if (status != cudaSuccess) throw_cuda(status, "cudaGetDeviceCount", __FILE__, __LINE__);
    *count = devices;
  });
}

int32_t device_facts(int32_t ordinal, mpc_cuda_facts* facts, mpc_cuda_error* error) {
  return guarded(ordinal, error, [&] {
    cudaDeviceProp properties{};
    MPC_CUDA(cudaGetDeviceProperties(&properties, ordinal));
    size_t free = 0;
    size_t total = 0;
    MPC_CUDA(cudaMemGetInfo(&free, &total));
    *facts = {};
    facts->ordinal = ordinal;
    facts->major = properties.major;
    facts->minor = properties.minor;
    facts->multiprocessors = properties.multiProcessorCount;
    facts->memory_bytes = static_cast<int64_t>(total);
    facts->free_bytes = static_cast<int64_t>(free);
    MPC_CUDA(cudaDriverGetVersion(&facts->driver));
    copy_text(facts->name, properties.name);
  });
}

int library_version(LibraryName name, const Library& library) {
  try {
    switch (name) {
      case LibraryName::cublaslt:
        return static_cast<int>(reinterpret_cast<size_t (*)()>(library_function(library, "cublasLtGetVersion"))());
      case LibraryName::cudnn:
        return static_cast<int>(reinterpret_cast<size_t (*)()>(library_function(library, "cudnnGetVersion"))());
      case LibraryName::nccl: {
        int version = 0;
        reinterpret_cast<int (*)(int*)>(library_function(library, "ncclGetVersion"))(&version);
        return version;
      }
      case LibraryName::nvrtc: {
        int major = 0;
        int minor = 0;
        reinterpret_cast<int (*)(int*, int*)>(library_function(library, "nvrtcVersion"))(&major, &minor);
        return major * 1000 + minor * 10;
      }
    }
  } catch (const DeviceError&) {
    return 0;  // a library without its version function is listed as version 0
  }
  return 0;
}

int32_t list_library(int32_t index, mpc_cuda_library* row) {
  if (index < 0 || index >= kLibraryCount) return 0;
  const LibraryName name = static_cast<LibraryName>(index);
  const Library& found = library(name);
  *row = {};
  row->is_there = found.handle != nullptr ? 1 : 0;
  row->version = found.handle != nullptr ? library_version(name, found) : 0;
  copy_text(row->name, found.name);
  copy_text(row->path, found.path);
  copy_text(row->costs, found.costs);
  return 1;
}

std::string describe_gpu(int ordinal) {
  cudaDeviceProp properties{};
  MPC_CUDA(cudaGetDeviceProperties(&properties, ordinal));
  int driver = 0;
  MPC_CUDA(cudaDriverGetVersion(&driver));
  return std::string(properties.name) + ", sm_" + std::to_string(properties.major) + std::to_string(properties.minor) +
         ", " + std::to_string(properties.multiProcessorCount) + " multiprocessors, driver " + std::to_string(driver);
}

int32_t open_device(int32_t ordinal, mpc_cuda_device** device, mpc_cuda_error* error) {
  return guarded(ordinal, error, [&] {
    MPC_CUDA(cudaFree(nullptr));  // makes the context
    auto made = std::make_unique<mpc_cuda_device>();
    made->ordinal = ordinal;
    made->cublaslt.gpu = made->cudnn.gpu = describe_gpu(ordinal);
    *device = made.release();
  });
}

void close_device(mpc_cuda_device* device) {
  released(device->ordinal, [&] { delete device; });
}

int32_t allocate(mpc_cuda_device* device, int64_t bytes, void** memory, mpc_cuda_error* error) {
  return guarded(device->ordinal, error, [&] { MPC_CUDA(cudaMalloc(memory, static_cast<size_t>(bytes))); });
}

void release(mpc_cuda_device* device, void* memory) {
  released(device->ordinal, [&] { cudaFree(memory); });
}

int32_t allocate_host(mpc_cuda_device* device, int64_t bytes, void** memory, mpc_cuda_error* error) {
  return guarded(device->ordinal, error, [&] {
    // Portable: pinned for every device of the process.
    MPC_CUDA(cudaHostAlloc(memory, static_cast<size_t>(bytes), cudaHostAllocPortable));
  });
}

void release_host(mpc_cuda_device* device, void* memory) {
  released(device->ordinal, [&] { cudaFreeHost(memory); });
}

int32_t enable_peer(mpc_cuda_device* from, mpc_cuda_device* to, int32_t* is_enabled, mpc_cuda_error* error) {
  *is_enabled = 0;
  if (from->ordinal == to->ordinal) {  // enabling a device for itself is an error
    *is_enabled = 1;
    return MPC_CUDA_OK;
  }
  return guarded(to->ordinal, error, [&] {
    int can = 0;
    MPC_CUDA(cudaDeviceCanAccessPeer(&can, to->ordinal, from->ordinal));
    if (can == 0) return;
    const cudaError_t status = cudaDeviceEnablePeerAccess(from->ordinal, 0);
    if (status == cudaErrorPeerAccessAlreadyEnabled) {
      cudaGetLastError();
    } else if (status != cudaSuccess) {
      throw_cuda(status, "cudaDeviceEnablePeerAccess", __FILE__, __LINE__);
    }
    *is_enabled = 1;
  });
}

int32_t make_stream(mpc_cuda_device* device, mpc_cuda_stream** stream, mpc_cuda_error* error) {
  return guarded(device->ordinal, error, [&] {
    auto made = std::make_unique<mpc_cuda_stream>();
    made->device = device;
    MPC_CUDA(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking));
    *stream = made.release();
  });
}

void destroy_stream(mpc_cuda_stream* stream) {
  released(stream->device->ordinal, [&] {
    stream->nccl.reset();
    cudaStreamDestroy(stream->stream);
  });
  (void)stream->nccl.release();  // still there only after a sticky error, when nothing can be given back
  delete stream;
}

int32_t sync_stream(mpc_cuda_stream* stream, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] { MPC_CUDA(cudaStreamSynchronize(stream->stream)); });
}

int32_t make_event(mpc_cuda_device* device, int32_t is_timed, mpc_cuda_event** event, mpc_cuda_error* error) {
  return guarded(device->ordinal, error, [&] {
    auto made = std::make_unique<mpc_cuda_event>();
    made->device = device;
    MPC_CUDA(cudaEventCreateWithFlags(&made->event, is_timed != 0 ? cudaEventDefault : cudaEventDisableTiming));
    *event = made.release();
  });
}

void destroy_event(mpc_cuda_event* event) {
  released(event->device->ordinal, [&] { cudaEventDestroy(event->event); });
  delete event;
}

int32_t record(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] { MPC_CUDA(cudaEventRecord(event->event, stream->stream)); });
}

int32_t wait(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error,
                 [&] { MPC_CUDA(cudaStreamWaitEvent(stream->stream, event->event, 0)); });
}

int32_t sync_event(mpc_cuda_event* event, mpc_cuda_error* error) {
  return guarded(event->device->ordinal, error, [&] { MPC_CUDA(cudaEventSynchronize(event->event)); });
}

int32_t elapsed_ms(mpc_cuda_event* from, mpc_cuda_event* to, float* milliseconds, mpc_cuda_error* error) {
  return guarded(from->device->ordinal, error,
                 [&] { MPC_CUDA(cudaEventElapsedTime(milliseconds, from->event, to->event)); });
}

int32_t copy(mpc_cuda_stream* stream, void* to, const void* from, int64_t bytes, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    MPC_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream->stream));
  });
}

int32_t copy_peer(mpc_cuda_stream* stream, mpc_cuda_device* to_device, void* to, mpc_cuda_device* from_device,
                  const void* from, int64_t bytes, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    const size_t count = static_cast<size_t>(bytes);
    if (to_device->ordinal == from_device->ordinal) {
      MPC_CUDA(cudaMemcpyAsync(to, from, count, cudaMemcpyDeviceToDevice, stream->stream));
    } else {
      MPC_CUDA(cudaMemcpyPeerAsync(to, to_device->ordinal, from, from_device->ordinal, count, stream->stream));
    }
  });
}

int32_t copy_nccl(mpc_cuda_stream* stream, mpc_cuda_device* to_device, void* to, mpc_cuda_device* from_device,
                  const void* from, int64_t bytes, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    if (stream->nccl == nullptr || !stream->nccl->joins(from_device->ordinal, to_device->ordinal)) {
      stream->nccl = make_nccl_link(from_device->ordinal, to_device->ordinal, stream->device->ordinal, stream->stream);
    }
    stream->nccl->copy(from, to, bytes);
  });
}

int32_t fill(mpc_cuda_stream* stream, void* memory, int32_t byte, int64_t bytes, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error,
                 [&] { MPC_CUDA(cudaMemsetAsync(memory, byte, static_cast<size_t>(bytes), stream->stream)); });
}

int32_t begin_capture(mpc_cuda_stream* stream, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    // Thread-local: what other sessions of the process do meanwhile does not end this capture.
    MPC_CUDA(cudaStreamBeginCapture(stream->stream, cudaStreamCaptureModeThreadLocal));
  });
}

int32_t end_capture(mpc_cuda_stream* stream, mpc_cuda_graph** graph, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] {
    cudaGraph_t captured = nullptr;
    MPC_CUDA(cudaStreamEndCapture(stream->stream, &captured));
    cudaGraphExec_t executable = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&executable, captured, 0);
    cudaGraphDestroy(captured);
    if (status != cudaSuccess) throw_cuda(status, "cudaGraphInstantiate", __FILE__, __LINE__);
    auto made = std::make_unique<mpc_cuda_graph>();
    made->device = stream->device;
    made->graph = executable;
    *graph = made.release();
  });
}

int32_t launch_graph(mpc_cuda_graph* graph, mpc_cuda_stream* stream, mpc_cuda_error* error) {
  return guarded(stream->device->ordinal, error, [&] { MPC_CUDA(cudaGraphLaunch(graph->graph, stream->stream)); });
}

void destroy_graph(mpc_cuda_graph* graph) {
  released(graph->device->ordinal, [&] { cudaGraphExecDestroy(graph->graph); });
  delete graph;
}

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
