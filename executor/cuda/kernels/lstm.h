#pragma once

#include <algorithm>
#include <array>
#include <string>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"

// What LSTM and its two gradients share: sizes, places, sequence lengths, and the matrix products they are made of.
//   X (S, B, I)   W (D, 4H, I)   R (D, 4H, H)   bias (D, 8H)   sequence_lens (B)   initial_h, initial_c (D, B, H)
//   P (D, 3H) Y (S, D, B, H)   Y_h, Y_c (D, B, H)
// With layout 1: X (B, S, I), Y (B, S, D, H), and initial_h, initial_c, Y_h, Y_c (B, D, H).

namespace mpc::cuda::recurrence {

enum Gate : int64_t { kInputGate, kOutputGate, kForgetGate, kCellGate, kGateCount };
enum Peephole : int64_t { kPeepInput, kPeepOutput, kPeepForget, kPeepCount };

struct Sizes {
  Sizes(const Attributes& attributes, const Shape& x)
      : is_batch_first(attributes.integer("layout") == 1),
        is_first_reverse(attributes.text("direction") == "reverse"),
        steps(x[is_batch_first ? 1 : 0]),
        batch(x[is_batch_first ? 0 : 1]),
        inputs(x[2]),
        hidden(attributes.integer("hidden_size")),
        directions(attributes.text("direction") == "bidirectional" ? 2 : 1) {}

  bool is_batch_first;
  bool is_first_reverse;
  int64_t steps, batch, inputs, hidden, directions;

  MPC_HD int64_t rows() const { return steps * batch; }
  MPC_HD int64_t gates() const { return kGateCount * hidden; }
  MPC_DEVICE bool is_reverse(int64_t d) const { return is_first_reverse || d == 1; }
  /// The row of X that time t of sequence b is.
  MPC_DEVICE int64_t row(int64_t t, int64_t b) const { return is_batch_first ? b * steps + t : t * batch + b; }
  MPC_DEVICE int64_t y_at(int64_t t, int64_t d, int64_t b) const {
    return (is_batch_first ? (b * steps + t) * directions + d : (t * directions + d) * batch + b) * hidden;
  }
  MPC_DEVICE int64_t state_at(int64_t d, int64_t b) const {
    return (is_batch_first ? b * directions + d : d * batch + b) * hidden;
  }
  MPC_DEVICE int64_t gates_at(int64_t t, int64_t d, int64_t b) const {
    return ((t * directions + d) * batch + b) * gates();
  }
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

/// The recurrence, run for one direction at a time. Kept for every step k where asked for: gates after their
/// activations (S, B, 4H), and cells before it (S + 1, B, H).
template <class T>
class Forward {
 public:
  /// Operands 0 to 7 of the node are those of LSTM.
  Forward(const executor::NodeSpec& node, const Sizes& sizes, bool keeps_steps, const MakeOptions& options,
          Pieces& pieces);

  /// What all directions share: x W'.
  void begin(const Launch& launch, void* workspace) const;
  /// @param y the hidden states, or without data
  void run(const Launch& launch, int64_t d, Out<T> y, void* workspace) const;

  const T* gates(void* workspace) const { return piece<T>(workspace, gates_); }
  const T* cells(void* workspace) const { return piece<T>(workspace, cells_); }
  const T* last_hidden(void* workspace) const { return piece<T>(workspace, hidden_); }
  Lengths lengths(const Launch& launch) const;
  In<T> operand(const Launch& launch, size_t i) const { return {launch.in<void>(i), dtypes_[i]}; }
  int64_t product_bytes() const {
    return std::max(from_x_product_.workspace_bytes(), from_h_product_.workspace_bytes());
  }
  void set_product_workspace(int64_t begin) { product_workspace_ = begin; }
  /// What the kernel is called: which products it is made of is part of it.
  std::string kernel_name() const { return "cuda:lstm with " + std::string(from_h_product_.name()); }

 private:
  Sizes s_;
  bool keeps_steps_;
  std::array<DType, 8> dtypes_;
  std::array<bool, 8> is_present_;
  Product from_x_product_, from_h_product_;
  int64_t from_x_, from_h_, hidden_, cells_, gates_ = 0;
  int64_t product_workspace_ = 0;
};

}  // namespace mpc::cuda::recurrence
