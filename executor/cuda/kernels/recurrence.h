#pragma once

#include <memory>
#include <string_view>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"

// What LSTM, GRU and their gradients share: sizes, places, sequence lengths, and the matrix products they are made of.
//   X (S, B, I)   W (D, GH, I)   R (D, GH, H)   bias (D, 2GH)   sequence_lens (B)   initial_h (D, B, H)
//   Y (S, D, B, H)   Y_h (D, B, H)
// With layout 1: X (B, S, I), Y (B, S, D, H), and initial_h, Y_h (B, D, H).
// Products of all time steps at once are one matrix product (x W', dgates W, and the weight gradients); those of the
// recurrence are one or two per step, with a kernel for the gates after it. Steps are launches: a captured step replays
// them.

namespace mpc::cuda::recurrence {

/// Operands that are at the same positions of every cell and of its input gradient.
enum Input : size_t { kX, kW, kR, kBias, kSequenceLens, kInitialH };

struct Sizes {
  Sizes(const Attributes& attributes, const Shape& x, int64_t gates_of_cell)
      : is_batch_first(attributes.integer("layout") == 1),
        is_first_reverse(attributes.text("direction") == "reverse"),
        steps(x[is_batch_first ? 1 : 0]),
        batch(x[is_batch_first ? 0 : 1]),
        inputs(x[2]),
        hidden(attributes.integer("hidden_size")),
        directions(attributes.text("direction") == "bidirectional" ? 2 : 1),
        gate_count(gates_of_cell) {}

  bool is_batch_first;
  bool is_first_reverse;
  int64_t steps, batch, inputs, hidden, directions, gate_count;

  MPC_HD int64_t rows() const { return steps * batch; }
  MPC_HD int64_t gates() const { return gate_count * hidden; }
  MPC_DEVICE bool is_reverse(int64_t d) const { return is_first_reverse || d == 1; }
  /// The row of X that time t of sequence b is.
  MPC_DEVICE int64_t row(int64_t t, int64_t b) const { return is_batch_first ? b * steps + t : t * batch + b; }
  MPC_DEVICE int64_t y_at(int64_t t, int64_t d, int64_t b) const {
    return (is_batch_first ? (b * steps + t) * directions + d : (t * directions + d) * batch + b) * hidden;
  }
  MPC_DEVICE int64_t state_at(int64_t d, int64_t b) const {
    return (is_batch_first ? b * directions + d : d * batch + b) * hidden;
  }
  MPC_DEVICE int64_t reset_at(int64_t t, int64_t d, int64_t b) const {
    return ((t * directions + d) * batch + b) * hidden;
  }
  MPC_DEVICE int64_t gates_at(int64_t t, int64_t d, int64_t b) const { return reset_at(t, d, b) * gate_count; }
  /// The time of the k-th step that a sequence of `length` steps takes; and back.
  MPC_DEVICE int64_t time(int64_t d, int64_t k, int64_t length) const { return is_reverse(d) ? length - 1 - k : k; }
};

/// How many steps each sequence has. One that is out of range is reported, and taken as empty.
struct Lengths {
  IntegerIn values;  // without data: all steps
  int64_t steps;
  Faults faults;
  MPC_DEVICE int64_t of(int64_t b) const {
    if (values.data == nullptr) return steps;
    const int64_t length = values[b];
    if (length >= 0 && length <= steps) return length;
    faults.report(length, steps, MPC_CUDA_FAULT_LENGTH);
    return 0;
  }
};

/// y (rows, columns) = op(a) op(b), row-major, by the best kernel there is.
class Product {
 public:
  struct Form {
    int64_t rows = 0;
    int64_t columns = 0;
    int64_t inner = 0;
    bool trans_a = false;
    bool trans_b = false;
    DType a = DType::f32;
    DType b = DType::f32;
    DType y = DType::f32;
    bool is_aligned = true;
  };
  Product(const Form& form, const MakeOptions& options);
  /// @param workspace at least workspace_bytes()
  void run(Stream stream, const void* a, const void* b, void* y, void* workspace) const;
  int64_t workspace_bytes() const { return kernel_->workspace_bytes(); }
  std::string_view name() const { return kernel_->name(); }

 private:
  std::unique_ptr<Kernel> kernel_;
};

/// Lays out a workspace: pieces at multiples of 256 bytes.
class Pieces {
 public:
  /// The place of `count` elements of `element_bytes`, from the begin of the workspace.
  int64_t take(int64_t count, size_t element_bytes) {
    constexpr int64_t kAlignment = 256;
    const int64_t begin = bytes_;
    bytes_ += (count * static_cast<int64_t>(element_bytes) + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

template <class T>
T* piece(void* workspace, int64_t begin) {
  return reinterpret_cast<T*>(static_cast<std::byte*>(workspace) + begin);
}

inline DType dtype_of(float) {
  return DType::f32;
}
inline DType dtype_of(double) {
  return DType::f64;
}

/// What a cell computes in.
inline DType compute_type(const executor::NodeSpec& node) {
  return node.inputs[kX].dtype == DType::f64 ? DType::f64 : DType::f32;
}

/// Does a part that begins `elements` elements behind an aligned operand begin at an aligned place too?
inline bool is_aligned_part(int64_t elements, DType dtype) {
  constexpr int64_t kAlignment = 256;
  return elements * dtype_bytes(dtype) % kAlignment == 0;
}

/// Optional operands (initial states, gradients, biases) that are absent are zeros.
template <class T>
MPC_DEVICE T element_or_zero(const In<T>& values, int64_t i) {
  return values.data == nullptr ? T{0} : values[i];
}

}  // namespace mpc::cuda::recurrence
