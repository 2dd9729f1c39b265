#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

// What LSTM and GRU share: G gates, S steps, batch B, I inputs, H hidden units and D directions.
//   X (S, B, I)   W (D, GH, I)   R (D, GH, H)   bias (D, 2GH)   sequence_lens (B) i32   initial_h (D, B, H)
//   Y (S, D, B, H)   Y_h (D, B, H)
// With layout 1: X (B, S, I), Y (B, S, D, H), and initial_h, Y_h (B, D, H).

namespace mpc::ops {

/// Operands that are at the same positions of every cell and of its input gradient.
enum RecurrentInput : int { kX, kW, kR, kBias, kSequenceLens, kInitialH };

struct RecurrentDims {
  int64_t gate_count = 0;
  int64_t steps = 0;
  int64_t batch = 0;
  int64_t inputs = 0;
  int64_t hidden = 0;
  int64_t directions = 0;
  bool is_batch_first = false;

  Shape gates() const { return {steps, directions, batch, gate_count * hidden}; }
  Shape y() const {
    return is_batch_first ? Shape{batch, steps, directions, hidden} : Shape{steps, directions, batch, hidden};
  }
  Shape state() const { return is_batch_first ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden}; }
};

/// direction, hidden_size and layout: the attributes of weight gradients.
std::vector<AttributeSpec> direction_attributes();
/// Those, activations with their numbers, and clip.
std::vector<AttributeSpec> cell_attributes();
/// The values of `direction_attributes()` on the node that a gradient is made for.
Attributes direction_values(const GradientContext& context);

/// Fails unless operand i is absent or has the shape.
void require_shape(const InferContext& context, int i, const Shape& shape);

/// Checks the operands that all cells have, and makes the attributes canonical. What comes after kInitialH is only
/// checked for its dtype.
/// @param activations those of one direction, which are the only ones there are kernels for
/// @throws Error(M030..M032, M046).
RecurrentDims read_cell(InferContext& context, int64_t gate_count, std::span<const std::string_view> activations);

/// Infers (dGates, X, Y, ..., sequence_lens?, initial_h?) -> dW?, dR?, dbias? and checks its operands.
/// @param sequence_lens the position of that operand
RecurrentDims infer_recurrent_weight_grad(InferContext& context, int64_t gate_count, int sequence_lens);

/// 2 S B (elements of W and R) for the products, and `unit_flops` per hidden unit and step.
double forward_flops(const CostContext& context, double unit_flops);
/// The recurrence again, and as many operations backwards.
double input_grad_flops(const CostContext& context, double unit_flops);
/// 2 S B D GH (I + H) for the products, S B D GH for the bias.
double weight_grad_flops(const CostContext& context);

}  // namespace mpc::ops
