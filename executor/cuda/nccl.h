#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

// Copies between GPUs of this process by NCCL: a send and a receive in one group.

namespace mpc::cuda {

/// What a stream needs to copy from one GPU to another (or within one, by a communicator of one rank).
class NcclLink {
 public:
  virtual ~NcclLink() = default;
  virtual bool joins(int from_gpu, int to_gpu) const = 0;
  /// Enqueued on the stream, and captured with it. @throws DeviceError
  virtual void copy(const void* from, void* to, int64_t bytes) = 0;
};

/// Makes the communicators, which waits for both GPUs: not within a capture. @param stream of GPU `stream_gpu`, which
/// is one of the two, and outlives the link. @throws DeviceError, also where NCCL is missing.
std::unique_ptr<NcclLink> make_nccl_link(int from_gpu, int to_gpu, int stream_gpu, cudaStream_t stream);

}  // namespace mpc::cuda
