#pragma once

#include <cstdint>
#include <vector>

#include "compiler/base/dtype.h"
#include "executor/backend.h"

// A MatMul or Gemm as one product of matrices, repeated in steps: what a library of matrix products is asked for.

namespace mpc::cuda {

/// y (rows, columns) = activation(alpha op(a) op(b) + beta c + bias), row-major, `count` times.
struct ProductShape {
  DType dtype = DType::f32;   // of all operands
  DType result = DType::f32;  // of y: that of the operands, or f32
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t inner = 0;
  bool trans_a = false;
  bool trans_b = false;
  int64_t count = 1;
  int64_t a_step = 0;  // elements from one matrix to the next
  int64_t b_step = 0;
  double alpha = 1;
  double beta = 0;           // of what c holds
  bool accumulates = false;  // c is a sum, added in all micro-batches of a step but the first
  bool has_bias = false;     // a row, added to every row
  /// gelu_gradient: y = (alpha op(a) op(b)) Gelu'(x), with neither c nor bias. Gelu by tanh.
  enum class Activation : uint8_t { none, relu, gelu, gelu_gradient } activation = Activation::none;
  bool has_sums = false;  // of op(b)'s columns, as a second result; with no bias and no activation
  /// Further batches that no single step describes: element offsets of a, b and y.
  struct Offsets {
    int64_t a, b, y;
  };
  std::vector<Offsets> outer = {{0, 0, 0}};
};

/// Is the node a product of matrices: MatMul, Gemm, or a GradAccumulate that adds one?
bool is_product(const executor::NodeSpec& node);
/// Where the node's second factor stands among its operands.
size_t second_factor(const executor::NodeSpec& node);

/// The product of a MatMul, its operands as they are stored; what is added to it is left to the caller.
ProductShape matmul_shape(const executor::NodeSpec& node);
/// The same of a Gemm, and of a GradAccumulate that adds a product.
ProductShape gemm_shape(const executor::NodeSpec& node);

}  // namespace mpc::cuda
