// LSTMInputGrad: runs the recurrence again and then backwards.

#include <cmath>

#include "executor/cuda/kernels/lstm.h"

namespace mpc::cuda {
namespace recurrence {
namespace {

constexpr size_t kDX = 0, kDInitialH = 1, kDInitialC = 2, kDP = 3, kDGates = 4, kHidden = 5, kResults = 6;

/// What reaches the states after the last step of a sequence: dY_h and dY_c.
template <class T>
struct LastGrads {
  In<T> dy_h, dy_c;  // without data: zeros
  MPC_DEVICE T h(int64_t at) const { return dy_h.data == nullptr ? T{0} : dy_h[at]; }
  MPC_DEVICE T c(int64_t at) const { return dy_c.data == nullptr ? T{0} : dy_c[at]; }
};

/// Step k of every sequence, backwards: from the gradients of the states after it, those of the gates before their
/// activations and of the cell before it. Element i is unit i % H of sequence i / H.
template <class T>
struct BackwardStep {
  Sizes s;
  Lengths lengths;
  In<T> peepholes, dy;  // without data: zeros
  LastGrads<T> last;
  const T* gates;  // (B, 4H) of this step
  const T* cells;  // (B, H) before it
  const T* next_cells;
  const T* dh;    // (B, H), from the step behind
  T* dc;          // (B, H), before and after
  T* step_grads;  // (B, 4H), zeros for sequences that are over
  T* row_grads;   // (rows, D 4H)
  Out<T> dgates;  // (S, D, B, 4H), may have no data
  int64_t d;
  int64_t k;

  MPC_DEVICE T peephole(Peephole which, int64_t u) const {
    return peepholes.data == nullptr ? T{0} : peepholes[(d * kPeepCount + which) * s.hidden + u];
  }
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t b = i / s.hidden;
    const int64_t u = i % s.hidden;
    const int64_t length = lengths.of(b);
    T grads[kLstmGates] = {};
    if (k < length) {
      const int64_t t = s.time(d, k, length);
      const int64_t state = s.state_at(d, b) + u;
      const bool is_last = k + 1 == length;
      T to_h = is_last ? last.h(state) : dh[i];
      const T to_c = is_last ? last.c(state) : dc[i];
      if (dy.data != nullptr) to_h += dy[s.y_at(t, d, b) + u];
      const T* mine = gates + b * s.gates() + u;
      const T in = mine[kInputGate * s.hidden];
      const T out = mine[kOutputGate * s.hidden];
      const T forget = mine[kForgetGate * s.hidden];
      const T candidate = mine[kCellGate * s.hidden];
      const T tanh_cell = std::tanh(next_cells[i]);
      grads[kOutputGate] = to_h * tanh_cell * out * (1 - out);
      const T total = to_c + to_h * out * (1 - tanh_cell * tanh_cell) + grads[kOutputGate] * peephole(kPeepOutput, u);
      grads[kInputGate] = total * candidate * in * (1 - in);
      grads[kForgetGate] = total * cells[i] * forget * (1 - forget);
      grads[kCellGate] = total * in * (1 - candidate * candidate);
      dc[i] =
          total * forget + grads[kInputGate] * peephole(kPeepInput, u) + grads[kForgetGate] * peephole(kPeepForget, u);
      const int64_t row = (s.row(t, b) * s.directions + d) * s.gates() + u;
      for (int64_t gate = 0; gate < kLstmGates; ++gate) {
        row_grads[row + gate * s.hidden] = grads[gate];
        if (dgates.data != nullptr) dgates.set(s.gates_at(t, d, b) + gate * s.hidden + u, grads[gate]);
      }
    }
    for (int64_t gate = 0; gate < kLstmGates; ++gate) step_grads[b * s.gates() + gate * s.hidden + u] = grads[gate];
  }
};

template <class T>
struct FirstGrads {
  Sizes s;
  Lengths lengths;
  LastGrads<T> last;
  const T* dh;
  const T* dc;
  Out<T> dinitial_h, dinitial_c;  // may have no data
  int64_t d;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t b = i / s.hidden;
    const int64_t at = s.state_at(d, b) + i % s.hidden;
    const bool is_empty = lengths.of(b) == 0;
    if (dinitial_h.data != nullptr) dinitial_h.set(at, is_empty ? last.h(at) : dh[i]);
    if (dinitial_c.data != nullptr) dinitial_c.set(at, is_empty ? last.c(at) : dc[i]);
  }
};

/// dP of one direction: the sum over all steps of a gate's gradient times the cell it sees. One block per number.
template <class T>
struct PeepholeGrad {
  Sizes s;
  Lengths lengths;
  const T* row_grads;
  const T* cells;  // (S + 1, B, H)
  Out<T> dp;
  int64_t d;
  MPC_DEVICE void operator()(Block& block, int64_t i) const {
    const int64_t which = i / s.hidden;
    const int64_t u = i % s.hidden;
    // Peepholes are in the order of the gates they belong to; that of the output gate sees the cell after the step.
    static_assert(int64_t{kPeepInput} == kInputGate && int64_t{kPeepOutput} == kOutputGate &&
                  int64_t{kPeepForget} == kForgetGate);
    const double sum = block.sum(s.batch * s.steps, [&](int64_t j) {
      const int64_t b = j / s.steps;
      const int64_t k = j % s.steps;
      const int64_t length = lengths.of(b);
      if (k >= length) return 0.0;
      const int64_t row = s.row(s.time(d, k, length), b) * s.directions + d;
      const int64_t seen = which == kPeepOutput ? k + 1 : k;
      return static_cast<double>(row_grads[row * s.gates() + which * s.hidden + u]) *
             static_cast<double>(cells[(seen * s.batch + b) * s.hidden + u]);
    });
    block.for_each(1, [&](int64_t) { dp.set(d * kPeepCount * s.hidden + i, static_cast<T>(sum)); });
  }
};

template <class T>
class InputGradKernel final : public Kernel {
 public:
  InputGradKernel(const executor::NodeSpec& node, const MakeOptions& options)
      : s_(*node.attributes, node.inputs[kX].shape, kLstmGates),
        forward_(node, s_, true, options, pieces_),
        to_h_({.rows = s_.batch,
               .columns = s_.hidden,
               .inner = s_.gates(),
               .a = dtype_of(T{}),
               .b = node.inputs[kR].dtype,
               .y = dtype_of(T{}),
               .is_aligned = s_.directions == 1},
              options),
        to_x_({.rows = s_.rows(),
               .columns = s_.inputs,
               .inner = s_.directions * s_.gates(),
               .a = dtype_of(T{}),
               .b = node.inputs[kW].dtype,
               .y = output_dtype(node, kDX)},
              options),
        has_gaps_(has_input(node, kSequenceLens)) {
    const int64_t states = s_.batch * s_.hidden;
    step_grads_ = pieces_.take(s_.batch * s_.gates(), sizeof(T));
    row_grads_ = pieces_.take(row_grads_count(), sizeof(T));
    dh_ = pieces_.take(states, sizeof(T));
    dc_ = pieces_.take(states, sizeof(T));
    const int64_t most = std::max({forward_.product_bytes(), to_h_.workspace_bytes(), to_x_.workspace_bytes()});
    product_workspace_ = pieces_.take(most, 1);
    forward_.set_product_workspace(product_workspace_);
    for (size_t i = 0; i < kGrads; ++i) grads_[i] = input_dtype(node, kDY + i);
    for (size_t i = 0; i < kGrads; ++i) has_grad_[i] = has_input(node, kDY + i);
    for (size_t i = 0; i < kResults; ++i) {
      results_[i] = output_dtype(node, i);
      bytes_[i] = has_output(node, i) ? byte_size(node.outputs[i].shape, results_[i]) : 0;
    }
    peephole_type_ = input_dtype(node, kP);
    name_ = forward_.kernel_name();
  }

  void run(const Launch& launch) override {
    void* workspace = launch.workspace;
    void* product_workspace = piece<std::byte>(workspace, product_workspace_);
    if (has_gaps_) {  // steps behind the end of a sequence are written by no one else
      fill_bytes(launch.stream, piece<T>(workspace, row_grads_), 0,
                 row_grads_count() * static_cast<int64_t>(sizeof(T)));
      fill_bytes(launch.stream, launch.out<void>(kDGates), 0, bytes_[kDGates]);
      fill_bytes(launch.stream, launch.out<void>(kHidden), 0, bytes_[kHidden]);
    }
    forward_.begin(launch, workspace);
    for (int64_t d = 0; d < s_.directions; ++d) run_direction(launch, d, product_workspace);
    if (launch.out<void>(kDX) == nullptr) return;
    to_x_.run(launch.stream, piece<T>(workspace, row_grads_), launch.inputs[kW], launch.outputs[kDX],
              product_workspace);
  }
  int64_t workspace_bytes() const override { return pieces_.bytes(); }
  std::string_view name() const override { return name_; }

 private:
  static constexpr size_t kGrads = 3;  // dY, dY_h, dY_c

  int64_t row_grads_count() const { return s_.rows() * s_.directions * s_.gates(); }
  Out<T> result(const Launch& launch, size_t i) const { return {launch.out<void>(i), results_[i]}; }
  In<T> grad(const Launch& launch, size_t i) const {
    return {has_grad_[i - kDY] ? launch.inputs[i] : nullptr, grads_[i - kDY]};
  }

  void run_direction(const Launch& launch, int64_t d, void* product_workspace) const {
    void* workspace = launch.workspace;
    const int64_t states = s_.batch * s_.hidden;
    forward_.run(launch, d, result(launch, kHidden), workspace);
    const Lengths lengths = forward_.lengths(launch);
    const LastGrads<T> last{grad(launch, kDYh), grad(launch, kDYc)};
    const T* cells = forward_.cells(workspace);
    T* step_grads = piece<T>(workspace, step_grads_);
    T* row_grads = piece<T>(workspace, row_grads_);
    T* dh = piece<T>(workspace, dh_);
    T* dc = piece<T>(workspace, dc_);
    const std::byte* r =
        launch.in<std::byte>(kR) + d * s_.gates() * s_.hidden * dtype_bytes(forward_.operand(launch, kR).dtype);
    for (int64_t k = s_.steps - 1; k >= 0; --k) {
      for_each(launch.stream, states,
               BackwardStep<T>{s_,
                               lengths,
                               {launch.in<void>(kP), peephole_type_},
                               grad(launch, kDY),
                               last,
                               forward_.gates(workspace) + k * s_.batch * s_.gates(),
                               cells + k * states,
                               cells + (k + 1) * states,
                               dh,
                               dc,
                               step_grads,
                               row_grads,
                               result(launch, kDGates),
                               d,
                               k},
               "LSTM backwards");
      to_h_.run(launch.stream, step_grads, r, dh, product_workspace);
    }
    for_each(launch.stream, states,
             FirstGrads<T>{s_, lengths, last, dh, dc, result(launch, kDInitialH), result(launch, kDInitialC), d},
             "LSTM backwards");
    if (launch.out<void>(kDP) == nullptr) return;
    for_each_block(launch.stream, kPeepCount * s_.hidden,
                   PeepholeGrad<T>{s_, lengths, row_grads, cells, result(launch, kDP), d}, "LSTM peepholes");
  }

  Pieces pieces_;
  Sizes s_;
  LstmForward<T> forward_;
  Product to_h_, to_x_;
  bool has_gaps_;
  int64_t step_grads_, row_grads_, dh_, dc_, product_workspace_;
  std::array<DType, kGrads> grads_{};
  std::array<bool, kGrads> has_grad_{};
  std::array<DType, kResults> results_{};
  std::array<int64_t, kResults> bytes_{};
  DType peephole_type_;
  std::string name_;
};

}  // namespace
}  // namespace recurrence

KernelOrReason lstm_input_grad(const executor::NodeSpec& node, const MakeOptions& options) {
  return with_float_type(node, [&](auto tag) -> KernelOrReason {
    return {std::make_unique<recurrence::InputGradKernel<decltype(tag)>>(node, options), {}};
  });
}

}  // namespace mpc::cuda
