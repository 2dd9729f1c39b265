#include "executor/cuda/error.h"

#include "executor/cuda/abi.h"
#include "executor/cuda/launch.h"

namespace mpc::cuda {

bool is_sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

void throw_cuda(cudaError_t status, const char* call, const char* file, int line) {
  const bool sticky = is_sticky(status);
  if (!sticky) cudaGetLastError();  // clears it: the next call does not see this one's error
  const std::string text = std::string(call) + ": " + cudaGetErrorName(status) + ": " + cudaGetErrorString(status) +
                           " (" + file + ":" + std::to_string(line) + ")";
  throw DeviceError(status == cudaErrorMemoryAllocation ? MPC_CUDA_OUT_OF_MEMORY : MPC_CUDA_FAILED, sticky, text);
}

void throw_library(const char* library, int status, const char* status_text, const char* call, const char* file,
                   int line) {
  throw DeviceError(MPC_CUDA_FAILED, false,
                    std::string(library) + ": " + call + ": " + status_text + " (status " + std::to_string(status) +
                        ", " + file + ":" + std::to_string(line) + ")");
}

void check_launch(const char* what) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) throw_cuda(status, what, __FILE__, __LINE__);
}

void copy_bytes(Stream stream, void* to, const void* from, int64_t bytes) {
  if (bytes <= 0) return;
  MPC_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                           static_cast<cudaStream_t>(stream.handle)));
}

void fill_bytes(Stream stream, void* to, int byte, int64_t bytes) {
  if (bytes <= 0) return;
  MPC_CUDA(cudaMemsetAsync(to, byte, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream.handle)));
}

}  // namespace mpc::cuda
