#pragma once

#include <functional>
#include <span>
#include <string>
#include <variant>

#include "executor/cuda/kernel.h"
#include "tests/support/interpreter.h"

namespace mpc::test {

/// Why a backend does not run an op itself (another dtype, a layout it has no kernel for).
struct Declined {
  std::string reason;
};

/// A backend that conformance compares with the reference, sample by sample.
struct Backend {
  std::string name;
  /// Results of the given types (absent ones are not wanted), or why not.
  std::variant<Tensors, Declined> (*run)(OpKind op, const Attributes& attributes, const Tensors& inputs,
                                         const Types& outputs, const StepContext& step);
};

/// The kernel of the CUDA backend for a node, compiled for the host.
using CudaKernelMaker = std::function<cuda::KernelOrReason(const executor::NodeSpec& node)>;
/// Runs it twice, on buffers that hold different garbage: the bits must be the same.
std::variant<Tensors, Declined> run_cuda_kernel(const CudaKernelMaker& make, OpKind op, const Attributes& attributes,
                                                const Tensors& inputs, const Types& outputs, const StepContext& step);

/// The backends of this build beside the reference: one row in backends.cpp each.
std::span<const Backend> backends();

}  // namespace mpc::test
