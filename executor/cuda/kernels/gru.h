#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "executor/cuda/kernels/recurrence.h"

// What GRU and its input gradient share. The product that the hidden gate has with the hidden state h is made
//   with linear_before_reset   from h, as those of the other gates, and is then reset: h R' has 3H columns
//   without it                 from r h, after the reset gate is known: h R' has 2H columns, and a product of its own
//                              the H of the hidden gate

namespace mpc::cuda::recurrence {

enum GruGate : int64_t { kUpdateGate, kResetGate, kHiddenGate, kGruGates };
enum GruInput : size_t { kDY = kInitialH + 1, kDYh };

inline bool is_linear_before_reset(const executor::NodeSpec& node) {
  return node.attributes->integer("linear_before_reset") == 1;
}

/// The rows of R that are multiplied with h as it is, and those that see r h.
struct RecurrentParts {
  RecurrentParts(const Sizes& s, bool is_linear_before)
      : direct((is_linear_before ? kGruGates : kHiddenGate) * s.hidden), reset(s.gates() - direct) {}
  int64_t direct;
  int64_t reset;

  /// Do both parts of one direction of R begin at aligned places?
  bool is_aligned(const Sizes& s, DType dtype) const {
    return is_aligned_part((s.directions - 1) * s.gates() * s.hidden, dtype) &&
           (reset == 0 || is_aligned_part(direct * s.hidden, dtype));
  }
};

/// The recurrence, run for one direction at a time. Kept for every step k where asked for: gates after their
/// activations and, where it is reset after the product, what the hidden gate has from h (S, B, 4H); and the hidden
/// states before it (S + 1, B, H).
template <class T>
class GruForward {
 public:
  /// Operands 0 to 5 of the node are those of GRU.
  GruForward(const executor::NodeSpec& node, const Sizes& sizes, bool keeps_steps, const MakeOptions& options,
             Pieces& pieces);

  /// What all directions share: x W'.
  void begin(const Launch& launch, void* workspace) const;
  /// @param y the hidden states, or without data
  void run(const Launch& launch, int64_t d, Out<T> y, void* workspace) const;

  /// Of step k, (B, 4H); the last quarter only with linear_before_reset.
  T* gates(void* workspace, int64_t k) const {
    return piece<T>(workspace, gates_) + (keeps_steps_ ? k * s_.batch * kKept * s_.hidden : 0);
  }
  /// Before step k, (B, H).
  T* hidden(void* workspace, int64_t k) const {
    return piece<T>(workspace, hidden_) + (keeps_steps_ ? k * s_.batch * s_.hidden : 0);
  }
  Lengths lengths(const Launch& launch) const;
  /// One direction of R, from its row `row` on.
  const std::byte* r_part(const Launch& launch, int64_t d, int64_t row) const {
    return launch.in<std::byte>(kR) + (d * s_.gates() + row) * s_.hidden * dtype_bytes(dtypes_[kR]);
  }
  In<T> operand(const Launch& launch, size_t i) const { return {launch.in<void>(i), dtypes_[i]}; }
  int64_t product_bytes() const {
    const int64_t most = std::max(from_x_product_.workspace_bytes(), from_h_product_.workspace_bytes());
    return from_reset_product_ ? std::max(most, from_reset_product_->workspace_bytes()) : most;
  }
  void set_product_workspace(int64_t begin) { product_workspace_ = begin; }
  /// What the kernel is called: which products it is made of is part of it.
  std::string kernel_name() const { return "cuda:gru with " + std::string(from_h_product_.name()); }

  static constexpr int64_t kKept = kGruGates + 1;

 private:
  Product::Form recurrent_form(const executor::NodeSpec& node, int64_t columns) const;

  Sizes s_;
  bool is_linear_before_;
  bool keeps_steps_;
  RecurrentParts parts_;
  std::array<DType, 6> dtypes_;
  std::array<bool, 6> is_present_;
  Product from_x_product_, from_h_product_;
  std::optional<Product> from_reset_product_;
  int64_t from_x_, from_h_, hidden_, gates_;
  int64_t reset_h_ = 0, from_reset_ = 0;
  int64_t product_workspace_ = 0;
};

}  // namespace mpc::cuda::recurrence
