#include "executor/cuda/nccl.h"

#include <nccl.h>

#include "executor/cuda/abi.h"
#include "executor/cuda/error.h"
#include "executor/cuda/libraries.h"

namespace mpc::cuda {
namespace {

#define MPC_NCCL_FUNCTIONS(X) \
  X(ncclCommDestroy)          \
  X(ncclCommInitAll)          \
  X(ncclGetErrorString)       \
  X(ncclGroupEnd)             \
  X(ncclGroupStart)           \
  X(ncclRecv)                 \
  X(ncclSend)
MPC_LIBRARY_API(Nccl, MPC_NCCL_FUNCTIONS)

const Nccl& nccl() {
  static const Nccl kNccl = [] {
    const Library& found = library(LibraryName::nccl);
    if (found.handle == nullptr) throw DeviceError(MPC_CUDA_FAILED, false, "NCCL is missing: " + found.path);
    return Nccl(found);
  }();
  return kNccl;
}

void check(ncclResult_t status, const char* call, int line) {
  if (status == ncclSuccess) return;
  throw_library("NCCL", static_cast<int>(status), nccl().ncclGetErrorString(status), call, __FILE__, line);
}
#define MPC_NCCL(call) check(nccl().call, #call, __LINE__)

/// A send and the receive that takes it. A group that was begun is ended, whatever happens in it.
void send_and_receive(const void* from, void* to, int64_t bytes, ncclComm_t sender, int receiver_rank,
                      cudaStream_t send_stream, ncclComm_t receiver, int sender_rank, cudaStream_t receive_stream) {
  const size_t count = static_cast<size_t>(bytes);
  MPC_NCCL(ncclGroupStart());
  const ncclResult_t sent = nccl().ncclSend(from, count, ncclUint8, receiver_rank, sender, send_stream);
  const ncclResult_t received = nccl().ncclRecv(to, count, ncclUint8, sender_rank, receiver, receive_stream);
  const ncclResult_t ended = nccl().ncclGroupEnd();
  check(sent, "ncclSend", __LINE__);
  check(received, "ncclRecv", __LINE__);
  check(ended, "ncclGroupEnd", __LINE__);
}

/// Within one GPU: the only rank sends to itself.
class OneRank final : public NcclLink {
 public:
  OneRank(int gpu, cudaStream_t stream) : gpu_(gpu), stream_(stream) {
    MPC_NCCL(ncclCommInitAll(&communicator_, 1, &gpu));
  }
  ~OneRank() override { nccl().ncclCommDestroy(communicator_); }
  OneRank(const OneRank&) = delete;
  OneRank& operator=(const OneRank&) = delete;

  bool joins(int from_gpu, int to_gpu) const override { return from_gpu == gpu_ && to_gpu == gpu_; }
  void copy(const void* from, void* to, int64_t bytes) override {
    send_and_receive(from, to, bytes, communicator_, 0, stream_, communicator_, 0, stream_);
  }

 private:
  int gpu_;
  cudaStream_t stream_;
  ncclComm_t communicator_ = nullptr;
};

/// From rank 0 to rank 1. The stream is of one GPU; the other takes part on a stream of its own, between two events.
class TwoRanks final : public NcclLink {
 public:
  TwoRanks(int from_gpu, int to_gpu, int stream_gpu, cudaStream_t stream)
      : gpus_{from_gpu, to_gpu}, here_(stream_gpu == from_gpu ? 0 : 1), stream_(stream) {
    try {
      MPC_NCCL(ncclCommInitAll(communicators_, 2, gpus_));
      MPC_CUDA(cudaSetDevice(gpus_[1 - here_]));
      MPC_CUDA(cudaStreamCreateWithFlags(&other_, cudaStreamNonBlocking));
      MPC_CUDA(cudaEventCreateWithFlags(&after_, cudaEventDisableTiming));
      MPC_CUDA(cudaSetDevice(gpus_[here_]));
      MPC_CUDA(cudaEventCreateWithFlags(&before_, cudaEventDisableTiming));
    } catch (...) {
      free_all();
      throw;
    }
  }
  ~TwoRanks() override { free_all(); }
  TwoRanks(const TwoRanks&) = delete;
  TwoRanks& operator=(const TwoRanks&) = delete;

  bool joins(int from_gpu, int to_gpu) const override { return from_gpu == gpus_[0] && to_gpu == gpus_[1]; }
  void copy(const void* from, void* to, int64_t bytes) override {
    MPC_CUDA(cudaEventRecord(before_, stream_));
    MPC_CUDA(cudaStreamWaitEvent(other_, before_, 0));
    send_and_receive(from, to, bytes, communicators_[0], 1, here_ == 0 ? stream_ : other_, communicators_[1], 0,
                     here_ == 1 ? stream_ : other_);
    MPC_CUDA(cudaEventRecord(after_, other_));
    MPC_CUDA(cudaStreamWaitEvent(stream_, after_, 0));
  }

 private:
  void free_all() noexcept {
    if (before_ != nullptr) cudaEventDestroy(before_);
    if (after_ != nullptr) cudaEventDestroy(after_);
    if (other_ != nullptr) cudaStreamDestroy(other_);
    for (ncclComm_t communicator : communicators_) {
      if (communicator != nullptr) nccl().ncclCommDestroy(communicator);
    }
  }

  int gpus_[2];
  int here_;  // the rank whose stream was given
  cudaStream_t stream_;
  cudaStream_t other_ = nullptr;
  cudaEvent_t before_ = nullptr;
  cudaEvent_t after_ = nullptr;
  ncclComm_t communicators_[2] = {};
};

}  // namespace

std::unique_ptr<NcclLink> make_nccl_link(int from_gpu, int to_gpu, int stream_gpu, cudaStream_t stream) {
  if (from_gpu == to_gpu) return std::make_unique<OneRank>(from_gpu, stream);
  return std::make_unique<TwoRanks>(from_gpu, to_gpu, stream_gpu, stream);
}

}  // namespace mpc::cuda
