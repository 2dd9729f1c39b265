// The gradients of LSTM: LSTMInputGrad runs the recurrence again and then backwards; LSTMWeightGrad is matrix products
// of its dGates with x and with the hidden states.

#include <cmath>

#include "executor/cuda/kernels/lstm.h"

namespace mpc::cuda {
namespace recurrence {
namespace {

constexpr size_t kX = 0, kW = 1, kR = 2, kSequenceLens = 4, kP = 7, kDY = 8, kDYh = 9, kDYc = 10;
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
    T grads[kGateCount] = {};
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
      for (int64_t gate = 0; gate < kGateCount; ++gate) {
        row_grads[row + gate * s.hidden] = grads[gate];
        if (dgates.data != nullptr) dgates.set(s.gates_at(t, d, b) + gate * s.hidden + u, grads[gate]);
      }
    }
    for (int64_t gate = 0; gate < kGateCount; ++gate) step_grads[b * s.gates() + gate * s.hidden + u] = grads[gate];
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
      : s_(*node.attributes, node.inputs[kX].shape),
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
  Forward<T> forward_;
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

// --- LSTMWeightGrad(dGates, X, Y, sequence_lens?, initial_h?) -> dW?, dR?, dbias?

/// Of one direction and every (t, b): its dGates, its x and the hidden state before it, as rows that lie together;
/// zeros behind the end of a sequence, where operands may hold anything.
template <class T>
struct GatherRows {
  Sizes s;
  Lengths lengths;
  In<T> dgates, x, y, initial_h;  // the last without data: zeros
  T* gate_rows;                   // (rows, 4H)
  T* x_rows;                      // (rows, I)
  T* h_rows;                      // (rows, H)
  int64_t d;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t width = s.gates() + s.inputs + s.hidden;
    const int64_t row = i / width;
    const int64_t column = i % width;
    const int64_t t = row / s.batch;
    const int64_t b = row % s.batch;
    const int64_t length = lengths.of(b);
    const bool is_inside = t < length;
    if (column < s.gates()) {
      gate_rows[row * s.gates() + column] = is_inside ? dgates[s.gates_at(t, d, b) + column] : T{0};
    } else if (column < s.gates() + s.inputs) {
      const int64_t at = column - s.gates();
      x_rows[row * s.inputs + at] = is_inside ? x[s.row(t, b) * s.inputs + at] : T{0};
    } else {
      const int64_t u = column - s.gates() - s.inputs;
      const int64_t before = s.is_reverse(d) ? t + 1 : t - 1;
      T value = 0;
      if (is_inside && before >= 0 && before < length) {
        value = y[s.y_at(before, d, b) + u];
      } else if (is_inside && initial_h.data != nullptr) {
        value = initial_h[s.state_at(d, b) + u];
      }
      h_rows[row * s.hidden + u] = value;
    }
  }
};

/// Both halves of dbias: the sums of dGates.
template <class T>
struct BiasGrad {
  Sizes s;
  const T* gate_rows;
  Out<T> dbias;
  int64_t d;
  MPC_DEVICE void operator()(Block& block, int64_t column) const {
    const double sum =
        block.sum(s.rows(), [&](int64_t row) { return static_cast<double>(gate_rows[row * s.gates() + column]); });
    block.for_each(2, [&](int64_t half) { dbias.set((d * 2 + half) * s.gates() + column, static_cast<T>(sum)); });
  }
};

template <class T>
class WeightGradKernel final : public Kernel {
 public:
  WeightGradKernel(const executor::NodeSpec& node, const MakeOptions& options)
      : s_(*node.attributes, node.inputs[1].shape),
        has_lengths_(has_input(node, 3)),
        has_initial_h_(has_input(node, 4)),
        to_w_(form(s_.inputs, output_dtype(node, 0)), options),
        to_r_(form(s_.hidden, output_dtype(node, 1)), options) {
    name_ = "cuda:lstm with " + std::string(to_w_.name());
    gate_rows_ = pieces_.take(s_.rows() * s_.gates(), sizeof(T));
    x_rows_ = pieces_.take(s_.rows() * s_.inputs, sizeof(T));
    h_rows_ = pieces_.take(s_.rows() * s_.hidden, sizeof(T));
    product_workspace_ = pieces_.take(std::max(to_w_.workspace_bytes(), to_r_.workspace_bytes()), 1);
    for (size_t i = 0; i < inputs_.size(); ++i) inputs_[i] = input_dtype(node, i);
    for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i] = output_dtype(node, i);
  }

  void run(const Launch& launch) override {
    for (int64_t d = 0; d < s_.directions; ++d) run_direction(launch, d);
  }
  int64_t workspace_bytes() const override { return pieces_.bytes(); }
  std::string_view name() const override { return name_; }

 private:
  /// dGates' x: (4H, columns).
  Product::Form form(int64_t columns, DType result) const {
    return {.rows = s_.gates(),
            .columns = columns,
            .inner = s_.rows(),
            .trans_a = true,
            .a = dtype_of(T{}),
            .b = dtype_of(T{}),
            .y = result,
            .is_aligned = s_.directions == 1};
  }

  void run_direction(const Launch& launch, int64_t d) const {
    T* gate_rows = piece<T>(launch.workspace, gate_rows_);
    T* x_rows = piece<T>(launch.workspace, x_rows_);
    T* h_rows = piece<T>(launch.workspace, h_rows_);
    void* product_workspace = piece<std::byte>(launch.workspace, product_workspace_);
    const Lengths lengths{{has_lengths_ ? launch.inputs[3] : nullptr, inputs_[3]}, s_.steps, faults_of(launch)};
    for_each(launch.stream, s_.rows() * (s_.gates() + s_.inputs + s_.hidden),
             GatherRows<T>{s_,
                           lengths,
                           {launch.inputs[0], inputs_[0]},
                           {launch.inputs[1], inputs_[1]},
                           {launch.inputs[2], inputs_[2]},
                           {has_initial_h_ ? launch.inputs[4] : nullptr, inputs_[4]},
                           gate_rows,
                           x_rows,
                           h_rows,
                           d},
             "LSTM rows");
    const auto part = [&](size_t output, int64_t columns) {
      return launch.out<std::byte>(output) + d * s_.gates() * columns * dtype_bytes(outputs_[output]);
    };
    if (launch.out<void>(0) != nullptr) {
      to_w_.run(launch.stream, gate_rows, x_rows, part(0, s_.inputs), product_workspace);
    }
    if (launch.out<void>(1) != nullptr) {
      to_r_.run(launch.stream, gate_rows, h_rows, part(1, s_.hidden), product_workspace);
    }
    if (launch.out<void>(2) != nullptr) {
      for_each_block(launch.stream, s_.gates(), BiasGrad<T>{s_, gate_rows, {launch.outputs[2], outputs_[2]}, d},
                     "LSTM bias");
    }
  }

  Sizes s_;
  bool has_lengths_, has_initial_h_;
  Pieces pieces_;
  Product to_w_, to_r_;
  int64_t gate_rows_, x_rows_, h_rows_, product_workspace_;
  std::array<DType, 5> inputs_{};
  std::array<DType, 3> outputs_{};
  std::string name_;
};

}  // namespace
}  // namespace recurrence

KernelOrReason lstm_input_grad(const executor::NodeSpec& node, const MakeOptions& options) {
  return with_float_type(node, [&](auto tag) -> KernelOrReason {
    return {std::make_unique<recurrence::InputGradKernel<decltype(tag)>>(node, options), {}};
  });
}

KernelOrReason lstm_weight_grad(const executor::NodeSpec& node, const MakeOptions& options) {
  return with_float_type(node, [&](auto tag) -> KernelOrReason {
    return {std::make_unique<recurrence::WeightGradKernel<decltype(tag)>>(node, options), {}};
  });
}

}  // namespace mpc::cuda
