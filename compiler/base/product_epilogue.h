#pragma once

#include <cstddef>
#include <vector>

#include "compiler/base/elementwise_program.h"

// What a MatMul or Gemm that passes/fuse_products fused does after the product, as a program of elementwise operators:
// for kernels that have the product alone, and then run the rest on its result.

namespace mpc {

struct ProductEpilogue {
  std::vector<size_t> inputs;          // of the node: inputs 1, 2... of the program, whose input 0 is the product
  std::vector<ElementwiseStep> steps;  // none: nothing was fused
};

/// How many operands the product itself has: A and B, and C of a Gemm.
size_t product_inputs(OpKind op);

/// @param is_present says of each of the node's inputs whether it is there. @pre op is MatMul or Gemm.
ProductEpilogue epilogue_of(OpKind op, const Attributes& attributes, DType dtype, const std::vector<bool>& is_present);

}  // namespace mpc
