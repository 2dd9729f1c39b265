#pragma once

#include <algorithm>
#include <array>
#include <string>

#include "executor/cuda/kernels/recurrence.h"

// What LSTM and its input gradient share. Beside recurrence.h: initial_c and Y_c as initial_h and Y_h, P (D, 3H).

namespace mpc::cuda::recurrence {

enum LstmGate : int64_t { kInputGate, kOutputGate, kForgetGate, kCellGate, kLstmGates };
enum Peephole : int64_t { kPeepInput, kPeepOutput, kPeepForget, kPeepCount };
enum LstmInput : size_t { kInitialC = kInitialH + 1, kP, kDY, kDYh, kDYc };

/// The recurrence, run for one direction at a time. Kept for every step k where asked for: gates after their
/// activations (S, B, 4H), and cells before it (S + 1, B, H).
template <class T>
class LstmForward {
 public:
  /// Operands 0 to 7 of the node are those of LSTM.
  LstmForward(const executor::NodeSpec& node, const Sizes& sizes, bool keeps_steps, const MakeOptions& options,
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
