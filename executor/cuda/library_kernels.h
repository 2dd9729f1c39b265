#pragma once

#include <string>

#include "compiler/base/channels_last.h"
#include "executor/cuda/kernel.h"

// Kernels that NVIDIA's libraries carry out. A factory declines with a reason where the library is not there, or has
// nothing for the node; the plugin's own kernels then take the node.

namespace mpc::cuda {

class CodeCache;

/// A library's handle for one logical device, made when it is first asked for.
class LibraryHandle {
 public:
  LibraryHandle() = default;
  LibraryHandle(const LibraryHandle&) = delete;
  LibraryHandle& operator=(const LibraryHandle&) = delete;
  ~LibraryHandle() {
    if (handle != nullptr) destroy(handle);
  }
  std::string gpu;  // all that a library's choices depend on beside its version: model, driver
  void* handle = nullptr;
  void (*destroy)(void*) = nullptr;
};

/// MatMul, Gemm, and GradAccumulate of a product by cuBLASLt. The algorithm is the first of its heuristics, which
/// depends on shapes and types alone.
KernelOrReason cublaslt_product(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle);

/// Has cuDNN kernels for this op: convolutions, attention and batch normalization, with their gradients?
bool is_for_cudnn(OpKind op);

/// A kernel by the graph API of cuDNN, deterministic engines only; strict f32 takes no engine that rounds its operands.
/// @pre is_for_cudnn(node.op).
KernelOrReason cudnn_kernel(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle);

/// Elementwise by a kernel of its own, generated for the node and compiled for GPU `ordinal`: the bits of the plugin's.
KernelOrReason nvrtc_fused(const executor::NodeSpec& node, int ordinal);

/// For tests without a GPU: whether cuDNN has an engine for the node on the device that `device_json` describes; "" or
/// why not. @pre is_for_cudnn(node.op).
std::string cudnn_refusal(const executor::NodeSpec& node, const MakeOptions& options, const std::string& device_json,
                          const CodeCache* cache = nullptr);

// What library kernels need of the plugin's own (kernels/*.cu).

/// y = c broadcast to y's shape.
class BroadcastCopy {
 public:
  BroadcastCopy() = default;
  BroadcastCopy(const executor::NodeSpec& node, size_t input);
  void run(Stream stream, const void* from, void* to) const;

 private:
  std::shared_ptr<Kernel> kernel_;
};

/// y[n, channel, i] += bias[channel], wherever y has its channels. @param order of y's planes.
void add_channel_bias(Stream stream, void* y, DType y_type, const void* bias, DType bias_type, int64_t elements,
                      const PlaneOrder& order);

/// The moving mean and variance of a BatchNormalizationTraining node, from the batch's mean and inverse deviation
/// (outputs 3 and 4), which are there: outputs 1 and 2, as far as they are asked for. Statistics in f32.
class MovingStatistics {
 public:
  explicit MovingStatistics(const executor::NodeSpec& node);
  void run(const Launch& launch) const;

 private:
  int64_t channels_;
  double epsilon_;
  double momentum_;
};

}  // namespace mpc::cuda
