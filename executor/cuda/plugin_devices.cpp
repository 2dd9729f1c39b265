// Devices, libraries and memory.

#include <algorithm>

#include "executor/cuda/copy_text.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/plugin.h"

namespace mpc::cuda {
namespace {

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

std::string describe_gpu(int ordinal) {
  cudaDeviceProp properties{};
  MPC_CUDA(cudaGetDeviceProperties(&properties, ordinal));
  int driver = 0;
  MPC_CUDA(cudaDriverGetVersion(&driver));
  return std::string(properties.name) + ", sm_" + std::to_string(properties.major) + std::to_string(properties.minor) +
         ", " + std::to_string(properties.multiProcessorCount) + " multiprocessors, driver " + std::to_string(driver);
}

}  // namespace

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

}  // namespace mpc::cuda
