#pragma once

#include <cuda_runtime_api.h>

#include <exception>
#include <memory>
#include <string>

#include "compiler/base/error.h"
#include "executor/cuda/abi.h"
#include "executor/cuda/error.h"
#include "executor/cuda/kernel.h"
#include "executor/cuda/library_kernels.h"
#include "executor/cuda/nccl.h"

// What the plugin hands out (abi.h says what each is and what the functions do), and how its functions report. Every
// function makes its device current first: callers have threads of their own.

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

/// Writes an error out; free bytes of the device when memory was short. @return the code.
int32_t fill_error(mpc_cuda_error* error, int32_t code, bool is_sticky, const std::string& text, int ordinal);

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

// plugin_devices.cpp
int32_t device_count(int32_t* count, mpc_cuda_error* error);
int32_t device_facts(int32_t ordinal, mpc_cuda_facts* facts, mpc_cuda_error* error);
int32_t list_library(int32_t index, mpc_cuda_library* row);
int32_t open_device(int32_t ordinal, mpc_cuda_device** device, mpc_cuda_error* error);
void close_device(mpc_cuda_device* device);
int32_t allocate(mpc_cuda_device* device, int64_t bytes, void** memory, mpc_cuda_error* error);
void release(mpc_cuda_device* device, void* memory);
int32_t allocate_host(mpc_cuda_device* device, int64_t bytes, void** memory, mpc_cuda_error* error);
void release_host(mpc_cuda_device* device, void* memory);
int32_t enable_peer(mpc_cuda_device* from, mpc_cuda_device* to, int32_t* is_enabled, mpc_cuda_error* error);

// plugin_streams.cpp
int32_t make_stream(mpc_cuda_device* device, mpc_cuda_stream** stream, mpc_cuda_error* error);
void destroy_stream(mpc_cuda_stream* stream);
int32_t sync_stream(mpc_cuda_stream* stream, mpc_cuda_error* error);
int32_t make_event(mpc_cuda_device* device, int32_t is_timed, mpc_cuda_event** event, mpc_cuda_error* error);
void destroy_event(mpc_cuda_event* event);
int32_t record(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error* error);
int32_t wait(mpc_cuda_stream* stream, mpc_cuda_event* event, mpc_cuda_error* error);
int32_t sync_event(mpc_cuda_event* event, mpc_cuda_error* error);
int32_t elapsed_ms(mpc_cuda_event* from, mpc_cuda_event* to, float* milliseconds, mpc_cuda_error* error);
int32_t copy(mpc_cuda_stream* stream, void* to, const void* from, int64_t bytes, mpc_cuda_error* error);
int32_t copy_peer(mpc_cuda_stream* stream, mpc_cuda_device* to_device, void* to, mpc_cuda_device* from_device,
                  const void* from, int64_t bytes, mpc_cuda_error* error);
int32_t copy_nccl(mpc_cuda_stream* stream, mpc_cuda_device* to_device, void* to, mpc_cuda_device* from_device,
                  const void* from, int64_t bytes, mpc_cuda_error* error);
int32_t fill(mpc_cuda_stream* stream, void* memory, int32_t byte, int64_t bytes, mpc_cuda_error* error);
int32_t begin_capture(mpc_cuda_stream* stream, mpc_cuda_error* error);
int32_t end_capture(mpc_cuda_stream* stream, mpc_cuda_graph** graph, mpc_cuda_error* error);
int32_t launch_graph(mpc_cuda_graph* graph, mpc_cuda_stream* stream, mpc_cuda_error* error);
void destroy_graph(mpc_cuda_graph* graph);

// plugin_kernels.cpp
int32_t make_kernel(mpc_cuda_device* device, const mpc_cuda_node* node, mpc_cuda_kernel** kernel,
                    mpc_cuda_error* error);
int64_t kernel_workspace(const mpc_cuda_kernel* kernel);
const char* kernel_name(const mpc_cuda_kernel* kernel);
const char* kernel_declined(const mpc_cuda_kernel* kernel);
int32_t run_kernel(mpc_cuda_kernel* kernel, mpc_cuda_stream* stream, const mpc_cuda_call* call, mpc_cuda_error* error);
void destroy_kernel(mpc_cuda_kernel* kernel);

}  // namespace mpc::cuda
