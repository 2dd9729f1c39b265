#include "executor/cuda/error.h"

#include "executor/cuda/abi.h"

// How a library's error is thrown, without the CUDA runtime.

namespace mpc::cuda {

void throw_library(const char* library, int status, const char* status_text, const char* call, const char*, int) {
  throw DeviceError(MPC_CUDA_FAILED, false,
                    std::string(library) + ": " + call + ": " + status_text + " (" + std::to_string(status) + ")");
}

}  // namespace mpc::cuda
