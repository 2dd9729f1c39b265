#pragma once

#include <cuda_runtime_api.h>

#include <exception>
#include <string>

// How the plugin reports what CUDA and its libraries say: one exception type inside, a code and a text outside.

namespace mpc::cuda {

/// A call of CUDA or of one of its libraries failed, or a kernel cannot be had.
class DeviceError : public std::exception {
 public:
  DeviceError(int32_t code, bool is_sticky, std::string text)
      : code_(code), is_sticky_(is_sticky), text_(std::move(text)) {}
  int32_t code() const { return code_; }
  /// Is the context gone, with all its memory?
  bool is_sticky() const { return is_sticky_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  int32_t code_;
  bool is_sticky_;
  std::string text_;
};

/// After these the context is gone and every later call fails.
bool is_sticky(cudaError_t status);
/// Throws what `status` means; clears it when the context stays usable.
[[noreturn]] void throw_cuda(cudaError_t status, const char* call, const char* file, int line);
[[noreturn]] void throw_library(const char* library, int status, const char* status_text, const char* call,
                                const char* file, int line);

}  // namespace mpc::cuda

/// Calls CUDA; an error ends the operation with call, name, text, file and line.
#define MPC_CUDA(call)                                                                             \
  do {                                                                                             \
    const cudaError_t mpc_status = (call);                                                         \
    if (mpc_status != cudaSuccess) ::mpc::cuda::throw_cuda(mpc_status, #call, __FILE__, __LINE__); \
  } while (false)
