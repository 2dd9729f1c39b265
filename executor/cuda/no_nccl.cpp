// In the place of nccl.cpp where its header was not found.

#include "executor/cuda/abi.h"
#include "executor/cuda/error.h"
#include "executor/cuda/nccl.h"

namespace mpc::cuda {

std::unique_ptr<NcclLink> make_nccl_link(int, int, int, cudaStream_t) {
  throw DeviceError(MPC_CUDA_FAILED, false, "this plugin was built without nccl.h, and so without the transport nccl");
}

}  // namespace mpc::cuda
