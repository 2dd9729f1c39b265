// LSTM; its gradients are in lstm_grad.cu and recurrence_weights.cu.

#include "executor/cuda/kernels/lstm.h"

#include <cmath>

#include "executor/functors/unary.h"

namespace mpc::cuda {
namespace recurrence {
namespace {

/// The states before the first step.
template <class T>
struct FirstStates {
  Sizes s;
  In<T> initial_h, initial_c;  // without data: zeros
  T* hidden;
  T* cells;
  int64_t d;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t from = s.state_at(d, i / s.hidden) + i % s.hidden;
    hidden[i] = initial_h.data == nullptr ? T{0} : initial_h[from];
    cells[i] = initial_c.data == nullptr ? T{0} : initial_c[from];
  }
};

/// Step k of every sequence: element i is unit i % H of sequence i / H.
template <class T>
struct ForwardStep {
  Sizes s;
  Lengths lengths;
  In<T> bias, peepholes;  // without data: zeros
  const T* from_x;        // (rows, D 4H)
  const T* from_h;        // (B, 4H)
  T* hidden;              // (B, H), before and after
  const T* cells;         // (B, H) before
  T* next_cells;          // may be `cells`
  T* gates;               // (B, 4H) of this step, or null
  Out<T> y;               // may have no data
  int64_t d;
  int64_t k;

  MPC_DEVICE T before_activation(int64_t gate, int64_t b, int64_t u, int64_t row) const {
    const int64_t at = gate * s.hidden + u;
    T sum = from_x[row * s.directions * s.gates() + d * s.gates() + at] + from_h[b * s.gates() + at];
    if (bias.data != nullptr) {
      sum += bias[d * 2 * s.gates() + at];
      sum += bias[(d * 2 + 1) * s.gates() + at];
    }
    return sum;
  }
  MPC_DEVICE T peephole(Peephole which, int64_t u) const {
    return peepholes.data == nullptr ? T{0} : peepholes[(d * kPeepCount + which) * s.hidden + u];
  }
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t b = i / s.hidden;
    const int64_t u = i % s.hidden;
    const int64_t length = lengths.of(b);
    if (k >= length) return;  // the states stay
    const int64_t t = s.time(d, k, length);
    const int64_t row = s.row(t, b);
    const T cell = cells[i];
    using functors::sigmoid;
    const T input = sigmoid(before_activation(kInputGate, b, u, row) + peephole(kPeepInput, u) * cell);
    const T forget = sigmoid(before_activation(kForgetGate, b, u, row) + peephole(kPeepForget, u) * cell);
    const T candidate = std::tanh(before_activation(kCellGate, b, u, row));
    const T next = forget * cell + input * candidate;
    const T output = sigmoid(before_activation(kOutputGate, b, u, row) + peephole(kPeepOutput, u) * next);
    const T result = output * std::tanh(next);
    next_cells[i] = next;
    hidden[i] = result;
    if (y.data != nullptr) y.set(s.y_at(t, d, b) + u, result);
    if (gates == nullptr) return;
    T* mine = gates + b * s.gates() + u;
    mine[kInputGate * s.hidden] = input;
    mine[kOutputGate * s.hidden] = output;
    mine[kForgetGate * s.hidden] = forget;
    mine[kCellGate * s.hidden] = candidate;
  }
};

/// The states after the last step, where they are asked for.
template <class T>
struct LastStates {
  Sizes s;
  const T* hidden;
  const T* cells;
  Out<T> last_h, last_c;  // may have no data
  int64_t d;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t to = s.state_at(d, i / s.hidden) + i % s.hidden;
    if (last_h.data != nullptr) last_h.set(to, hidden[i]);
    if (last_c.data != nullptr) last_c.set(to, cells[i]);
  }
};

}  // namespace

template <class T>
LstmForward<T>::LstmForward(const executor::NodeSpec& node, const Sizes& sizes, bool keeps_steps,
                            const MakeOptions& options, Pieces& pieces)
    : s_(sizes),
      keeps_steps_(keeps_steps),
      from_x_product_({.rows = s_.rows(),
                       .columns = s_.directions * s_.gates(),
                       .inner = s_.inputs,
                       .trans_b = true,
                       .a = node.inputs[kX].dtype,
                       .b = node.inputs[kW].dtype,
                       .y = compute_type(node)},
                      options),
      from_h_product_(
          {.rows = s_.batch,
           .columns = s_.gates(),
           .inner = s_.hidden,
           .trans_b = true,
           .a = compute_type(node),
           .b = node.inputs[kR].dtype,
           .y = compute_type(node),
           .is_aligned = is_aligned_part((s_.directions - 1) * s_.gates() * s_.hidden, node.inputs[kR].dtype)},
          options) {
  for (size_t i = 0; i < dtypes_.size(); ++i) {
    dtypes_[i] = input_dtype(node, i);
    is_present_[i] = has_input(node, i);
  }
  const int64_t states = s_.batch * s_.hidden;
  from_x_ = pieces.take(s_.rows() * s_.directions * s_.gates(), sizeof(T));
  from_h_ = pieces.take(s_.batch * s_.gates(), sizeof(T));
  hidden_ = pieces.take(states, sizeof(T));
  cells_ = pieces.take((keeps_steps ? s_.steps + 1 : 1) * states, sizeof(T));
  if (keeps_steps) gates_ = pieces.take(s_.steps * s_.batch * s_.gates(), sizeof(T));
}

template <class T>
Lengths LstmForward<T>::lengths(const Launch& launch) const {
  return {{is_present_[kSequenceLens] ? launch.inputs[kSequenceLens] : nullptr, dtypes_[kSequenceLens]},
          s_.steps,
          faults_of(launch)};
}

template <class T>
void LstmForward<T>::begin(const Launch& launch, void* workspace) const {
  from_x_product_.run(launch.stream, launch.inputs[kX], launch.inputs[kW], piece<T>(workspace, from_x_),
                      piece<std::byte>(workspace, product_workspace_));
}

template <class T>
void LstmForward<T>::run(const Launch& launch, int64_t d, Out<T> y, void* workspace) const {
  const int64_t states = s_.batch * s_.hidden;
  T* hidden = piece<T>(workspace, hidden_);
  T* cells = piece<T>(workspace, cells_);
  T* from_h = piece<T>(workspace, from_h_);
  const std::byte* r = launch.in<std::byte>(kR) + d * s_.gates() * s_.hidden * dtype_bytes(dtypes_[kR]);
  for_each(launch.stream, states,
           FirstStates<T>{s_, operand(launch, kInitialH), operand(launch, kInitialC), hidden, cells, d}, "LSTM");
  for (int64_t k = 0; k < s_.steps; ++k) {
    from_h_product_.run(launch.stream, hidden, r, from_h, piece<std::byte>(workspace, product_workspace_));
    const T* before = keeps_steps_ ? cells + k * states : cells;
    T* after = keeps_steps_ ? cells + (k + 1) * states : cells;
    T* gates = keeps_steps_ ? piece<T>(workspace, gates_) + k * s_.batch * s_.gates() : nullptr;
    for_each(launch.stream, states,
             ForwardStep<T>{s_, lengths(launch), operand(launch, kBias), operand(launch, kP),
                            piece<T>(workspace, from_x_), from_h, hidden, before, after, gates, y, d, k},
             "LSTM");
  }
}

template class LstmForward<float>;
template class LstmForward<double>;

namespace {

template <class T>
class ForwardKernel final : public Kernel {
 public:
  ForwardKernel(const executor::NodeSpec& node, const MakeOptions& options)
      : s_(*node.attributes, node.inputs[kX].shape, kLstmGates), forward_(node, s_, false, options, pieces_) {
    forward_.set_product_workspace(pieces_.take(forward_.product_bytes(), 1));
    for (size_t i = 0; i < dtypes_.size(); ++i) dtypes_[i] = output_dtype(node, i);
    y_bytes_ = has_output(node, 0) ? byte_size(node.outputs[0].shape, dtypes_[0]) : 0;
    // Steps behind the end of a sequence are written by no one else.
    has_gaps_ = has_input(node, kSequenceLens);
    name_ = forward_.kernel_name();
  }
  void run(const Launch& launch) override {
    if (has_gaps_) fill_bytes(launch.stream, launch.out<void>(0), 0, y_bytes_);
    forward_.begin(launch, launch.workspace);
    for (int64_t d = 0; d < s_.directions; ++d) {
      forward_.run(launch, d, {launch.out<void>(0), dtypes_[0]}, launch.workspace);
      for_each(launch.stream, s_.batch * s_.hidden,
               LastStates<T>{s_,
                             forward_.last_hidden(launch.workspace),
                             forward_.cells(launch.workspace),
                             {launch.out<void>(1), dtypes_[1]},
                             {launch.out<void>(2), dtypes_[2]},
                             d},
               "LSTM");
    }
  }
  int64_t workspace_bytes() const override { return pieces_.bytes(); }
  std::string_view name() const override { return name_; }

 private:
  Pieces pieces_;
  Sizes s_;
  LstmForward<T> forward_;
  std::array<DType, 3> dtypes_{};
  int64_t y_bytes_ = 0;
  bool has_gaps_ = false;
  std::string name_;
};

}  // namespace
}  // namespace recurrence

KernelOrReason lstm(const executor::NodeSpec& node, const MakeOptions& options) {
  return with_float_type(node, [&](auto tag) -> KernelOrReason {
    return {std::make_unique<recurrence::ForwardKernel<decltype(tag)>>(node, options), {}};
  });
}

}  // namespace mpc::cuda
