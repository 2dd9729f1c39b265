#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "executor/backend.h"
#include "executor/cuda/abi.h"

// The contract between the CUDA plugin and the code of one operator. Everything in executor/cuda/kernels is written
// against this file and launch.h alone, and compiles for the GPU (nvcc) and for the host (any compiler), where tests
// run it against the reference kernels.

namespace mpc::cuda {

/// The stream that work is enqueued on: a cudaStream_t.
struct Stream {
  void* handle = nullptr;
};

/// One call. Pointers are device memory; shapes are those the kernel was made for.
struct Launch {
  std::span<void* const> inputs;  // null for an absent operand
  std::span<void* const> outputs;
  void* workspace = nullptr;
  mpc_cuda_step* step = nullptr;  // device memory
  int32_t microbatch = 0;
  int32_t tag = 0;  // names the call in a fault
  Stream stream;

  template <class T>
  const T* in(size_t i) const {
    return i < inputs.size() ? static_cast<const T*>(inputs[i]) : nullptr;
  }
  template <class T>
  T* out(size_t i) const {
    return i < outputs.size() ? static_cast<T*>(outputs[i]) : nullptr;
  }
};

/// The code of one node, prepared for its shapes. run() enqueues and returns: no allocation, no synchronization, so
/// that a step can be captured. It writes every element of every present output and gives the same bits every time.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void run(const Launch& launch) = 0;
  virtual int64_t workspace_bytes() const { return 0; }
  virtual std::string_view name() const = 0;
};

struct KernelOrReason {
  std::unique_ptr<Kernel> kernel;
  std::string reason;
};

/// What a kernel may be made with, beside the node.
struct MakeOptions {
  bool allows_tf32 = false;
  bool is_aligned = true;  // operands begin at multiples of 256 bytes, and not at any element
  /// The best kernel for a Gemm that another kernel is made of; null: the plugin's own.
  std::function<KernelOrReason(const executor::NodeSpec& node, const MakeOptions& options)> product = {};
};

using KernelFactory = KernelOrReason (*)(const executor::NodeSpec& node, const MakeOptions& options);

inline KernelOrReason declined(std::string reason) {
  return {nullptr, std::move(reason)};
}

/// The plugin's own kernel for a node (no library), or why there is none. `reasons` of better ones are in .reason.
KernelOrReason find_own_kernel(const executor::NodeSpec& node, const MakeOptions& options);

/// A kernel made of a function that is called with the launch.
template <class Run>
class FunctionKernel final : public Kernel {
 public:
  FunctionKernel(std::string_view name, Run run) : name_(name), run_(std::move(run)) {}
  void run(const Launch& launch) override { run_(launch); }
  std::string_view name() const override { return name_; }

 private:
  std::string_view name_;  // a string literal
  Run run_;
};

template <class Run>
KernelOrReason function_kernel(std::string_view name, Run run) {
  return {std::make_unique<FunctionKernel<Run>>(name, std::move(run)), {}};
}

}  // namespace mpc::cuda
