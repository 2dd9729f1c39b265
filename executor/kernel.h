#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "compiler/base/attributes.h"
#include "compiler/base/op_kind.h"
#include "compiler/base/shape.h"

// The contract between an executor and the code of one operator.

namespace mpc {

/// A tensor in a device's memory, dense and row-major, aligned to 64 bytes. An absent optional operand has data ==
/// nullptr.
struct TensorView {
  DType dtype = DType::f32;
  Shape shape;
  std::byte* data = nullptr;

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
  int64_t bytes() const { return byte_size(shape, dtype); }
};

/// What changes from one call of a kernel to the next beside its operands.
struct StepContext {
  int64_t step = 0;        // optimizer steps done before this one
  int32_t microbatch = 0;  // index within the step
  uint64_t seed = 0;       // of the session
};

/// One call: operands as in the plan's node (positions of the IR), canonical attributes, scratch memory of the size
/// that op_quantities states (may be empty). A kernel writes every element of every present output, reads nothing else,
/// keeps no state, and gives the same bits for the same operands on every device of its backend.
struct KernelCall {
  const Attributes& attributes;
  std::span<const TensorView> inputs;
  std::span<const TensorView> outputs;
  StepContext step;
  std::span<std::byte> workspace;

  bool has_input(size_t i) const { return i < inputs.size() && inputs[i].data != nullptr; }
  bool has_output(size_t i) const { return i < outputs.size() && outputs[i].data != nullptr; }
};

/// A plain kernel: written for clarity, accumulates in double, the oracle of every other one.
using ReferenceKernel = void (*)(const KernelCall&);

/// The reference kernel of an op. Every op has one.
ReferenceKernel reference_kernel(OpKind op);

}  // namespace mpc
