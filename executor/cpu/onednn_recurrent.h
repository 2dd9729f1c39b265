#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "executor/cpu/support.h"

// What LSTM and GRU by oneDNN's sgemm share, in f32. Sequences of full length. Inside, everything is time-major, and
// gates are in ONNX's order.
//
//   forward    G (T B, GH) = X W^T in one product, then step by step products with R^T, gates and states
//   gradient   the forward is done again, then backwards in time; at the end dX = dG W in one product
//   weights    dW = dG^T X, dR = dG^T (hidden states one step earlier), db = sum of dG

namespace mpc::cpu {

/// Operands that are at the same positions of every cell and of its input gradient.
enum RecurrentInput : size_t { kX, kW, kR, kBias, kSequenceLens, kInitialH };

struct Matrix {
  const float* data;
  int64_t row_step;
  bool is_transposed = false;
};

/// y (rows, columns; row_step apart) = a b + beta y.
void multiply(int64_t rows, int64_t columns, int64_t inner, Matrix a, Matrix b, float beta, float* y, int64_t row_step);

/// Sizes and the places of things, in either layout.
struct RecurrentSizes {
  RecurrentSizes(const Attributes& attributes, const Shape& x, int64_t gates);
  bool is_reverse(int64_t d) const { return is_first_reverse || d == 1; }
  /// The time of the k-th step in a direction.
  int64_t time(int64_t d, int64_t k) const { return is_reverse(d) ? steps - 1 - k : k; }
  int64_t rows() const { return gate_count * hidden; }
  int64_t state_count() const { return batch * hidden; }
  int64_t x_count() const { return steps * batch * inputs; }
  int64_t gates_count() const { return steps * batch * rows(); }
  int64_t x_at(int64_t t, int64_t b) const { return (is_batch_first ? b * steps + t : t * batch + b) * inputs; }
  int64_t y_at(int64_t t, int64_t d, int64_t b) const {
    return (is_batch_first ? (b * steps + t) * directions + d : (t * directions + d) * batch + b) * hidden;
  }
  int64_t state_at(int64_t d, int64_t b) const {
    return (is_batch_first ? b * directions + d : d * batch + b) * hidden;
  }
  int64_t gates_at(int64_t t, int64_t d) const { return (t * directions + d) * batch * rows(); }
  int64_t reset_at(int64_t t, int64_t d) const { return (t * directions + d) * batch * hidden; }

  bool is_batch_first;
  int64_t steps, batch, inputs, hidden, directions, gate_count;
  bool is_first_reverse;
};

/// Gives out parts of the thread's scratch memory.
class ScratchParts {
 public:
  explicit ScratchParts(std::initializer_list<int64_t> counts);
  float* take(int64_t count) {
    float* part = next_;
    next_ += padded(count);
    return part;
  }

 private:
  static int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }
  float* next_;
};

/// x in time-major order: itself, or a copy in `buffer`.
const float* time_major(const RecurrentSizes& s, const float* x, float* buffer);
/// dX, from time-major order.
void store_x(const RecurrentSizes& s, const float* dx, float* to);
/// One direction of a state (B, H); zeros where the operand is absent.
void load_state(const RecurrentSizes& s, const KernelCall& call, size_t operand, int64_t d, float* state);
void store_state(const RecurrentSizes& s, const KernelCall& call, size_t output, int64_t d, const float* state);
/// Y of one direction, from states (T + 1, B, H) by step, before step k at k.
void store_sequence(const RecurrentSizes& s, const KernelCall& call, size_t output, int64_t d, const float* states);
/// Of one direction, gates (T, B, GH) by time = X W^T + Wb, and the first `recurrent_rows` elements of Rb.
void gates_from_x(const RecurrentSizes& s, const KernelCall& call, const float* x, int64_t d, int64_t recurrent_rows,
                  float* gates);
/// Rb (GH) of one direction, or null.
const float* recurrent_bias(const RecurrentSizes& s, const KernelCall& call, int64_t d);

/// What GRU's weight gradient does with its reset gates, operand 3.
enum class Reset : uint8_t { none, before_product, after_product };

/// dgates, X, hidden states, reset gates?, -, initial_h? -> dW, dR, db.
/// @param initial_h the position of that operand
void recurrent_weight_grad(const KernelCall& call, int64_t gate_count, size_t initial_h, Reset reset);

/// Why `what` cannot run the node, or empty.
/// @param sequence_lens the position of that operand
std::string recurrent_refusal(const NodeSpec& node, const std::string& what, size_t sequence_lens);

}  // namespace mpc::cpu
