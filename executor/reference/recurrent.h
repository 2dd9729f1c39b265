#pragma once

#include <cstdint>
#include <vector>

#include "executor/reference/support.h"

// What LSTM and GRU share. The sequences of a batch, and the two directions, do not depend on each other: each is run
// from its first to its last step, and in the gradient back again.

namespace mpc::reference {

/// Operands that are at the same positions of every cell and of its input gradient.
enum RecurrentInput : size_t { kX, kW, kR, kBias, kSequenceLens, kInitialH };

inline size_t at(int64_t position) {
  return static_cast<size_t>(position);
}
double sigmoid(double x);
/// All elements, or none where the operand is absent.
std::vector<double> load_optional(const KernelCall& call, size_t input);
void store_optional(const KernelCall& call, size_t output, const std::vector<double>& values);

/// Sizes and the places of things, in either layout.
struct RecurrentLayout {
  RecurrentLayout(const Attributes& attributes, const Shape& x, int64_t gates);

  bool is_batch_first;
  int64_t steps, batch, inputs, hidden, directions, gate_count;
  bool is_first_reverse;

  int64_t rows() const { return gate_count * hidden; }
  bool is_reverse(int64_t d) const { return is_first_reverse || d == 1; }
  int64_t x_at(int64_t t, int64_t b) const { return (is_batch_first ? b * steps + t : t * batch + b) * inputs; }
  int64_t y_at(int64_t t, int64_t d, int64_t b) const {
    return (is_batch_first ? (b * steps + t) * directions + d : (t * directions + d) * batch + b) * hidden;
  }
  int64_t state_at(int64_t d, int64_t b) const {
    return (is_batch_first ? b * directions + d : d * batch + b) * hidden;
  }
  int64_t gates_at(int64_t t, int64_t d, int64_t b) const { return reset_at(t, d, b) * gate_count; }
  int64_t reset_at(int64_t t, int64_t d, int64_t b) const { return ((t * directions + d) * batch + b) * hidden; }
  /// The time of the k-th step that a sequence of `length` steps takes.
  int64_t time(int64_t d, int64_t k, int64_t length) const { return is_reverse(d) ? length - 1 - k : k; }
  int64_t y_elements() const { return steps * directions * batch * hidden; }
  int64_t state_elements() const { return directions * batch * hidden; }
};

/// The operands that every cell has.
struct RecurrentCell {
  /// @throws Error(M033) for a sequence length that is out of range
  RecurrentCell(OpKind op, const KernelCall& call, int64_t gate_count);

  /// W x + Wb of one gate of one unit; x begins at x_begin.
  double from_x(int64_t d, int64_t row, int64_t x_begin) const;
  /// R h + Rb of it.
  double from_h(int64_t d, int64_t row, const double* h) const;
  /// From the gradients of all gates (GH): dx += W' dgates.
  void add_to_x(int64_t d, const double* dgates, double* dx) const;
  /// dh += R' dgates of the gates in [first, end).
  void add_to_h(int64_t d, const double* dgates, int64_t first, int64_t end, double* dh) const;

  /// Room for the hidden states of one sequence, (length + 1, H), with its first.
  std::vector<double> first_hidden(int64_t d, int64_t b) const;
  /// The hidden states of a sequence (length + 1, H), at their times; steps beyond its end are left as they are.
  void put_hidden(const std::vector<double>& hidden, int64_t d, int64_t b, std::vector<double>& y) const;

  RecurrentLayout layout;
  std::vector<int64_t> lengths;
  std::vector<double> x, w, r, bias, initial_h;
};

/// What GRU has in addition when it makes its weight gradients.
struct ResetGates {
  std::vector<double> values;  // (S, D, B, H)
  bool is_linear_before;
};

/// (dGates, X, Y, ..., sequence_lens?, initial_h?) -> dW?, dR?, dbias?
/// @param sequence_lens the position of that operand
/// @param reset those of GRU, or null
void recurrent_weight_grad(OpKind op, const KernelCall& call, int64_t gate_count, size_t sequence_lens,
                           const ResetGates* reset);

}  // namespace mpc::reference
