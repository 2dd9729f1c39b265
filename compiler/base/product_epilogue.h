#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "compiler/base/elementwise_program.h"

// What a MatMul or Gemm that passes/fuse_products fused does after the product, as a program of elementwise operators:
// for kernels that have the product alone, and then run the rest on its result.

namespace mpc {

struct ProductEpilogue {
  std::vector<size_t> inputs;          // of the node: inputs 1, 2... of the program, whose input 0 is the product
  std::vector<ElementwiseStep> steps;  // none: nothing was fused
};

/// The `activation` of a product whose result is the gradient of Gelu's: it is multiplied by Gelu'(whole), by tanh,
/// where `whole` is what Gelu was taken of.
inline constexpr std::string_view kGeluGradient = "GeluGrad";
/// The attributes of the UnaryGrad that it stands for.
Attributes gelu_gradient_attributes();

/// How many operands the product itself has: A and B, and C of a Gemm.
size_t product_inputs(OpKind op);

/// The node without what follows the product: with the attributes that are left.
Attributes product_attributes(const Attributes& attributes);

/// @param operands the type of A and B. @param is_present says of each of the node's inputs whether it is there.
/// @pre op is MatMul or Gemm. With `sum_to` the product that the program reads is not rounded yet.
ProductEpilogue epilogue_of(OpKind op, const Attributes& attributes, DType operands,
                            const std::vector<bool>& is_present);

}  // namespace mpc
