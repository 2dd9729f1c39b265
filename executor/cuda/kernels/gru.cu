// GRU; its gradients are in gru_grad.cu and recurrence_weights.cu.

#include "executor/cuda/kernels/gru.h"

#include <cmath>

#include "executor/functors/unary.h"

namespace mpc::cuda {
namespace recurrence {
namespace {

/// The state before the first step.
template <class T>
struct FirstState {
  Sizes s;
  In<T> initial_h;  // without data: zeros
  T* hidden;
  int64_t d;
  MPC_DEVICE void operator()(int64_t i) const {
    hidden[i] = element_or_zero<T>(initial_h, s.state_at(d, i / s.hidden) + i % s.hidden);
  }
};

/// Step k of every sequence: element i is unit i % H of sequence i / H.
template <class T>
struct Step {
  Sizes s;
  Lengths lengths;
  In<T> bias;       // without data: zeros
  const T* from_x;  // (rows, D 3H)
  const T* from_h;  // (B, 3H), or without linear_before_reset (B, 2H)
  int64_t from_h_width;
  const T* hidden;  // (B, H), before
  T* gates;         // (B, 4H) of this step
  int64_t d;
  int64_t k;

  MPC_DEVICE T from_input(int64_t gate, int64_t b, int64_t u, int64_t length) const {
    const int64_t row = s.row(s.time(d, k, length), b);
    const int64_t at = gate * s.hidden + u;
    return from_x[(row * s.directions + d) * s.gates() + at] + element_or_zero<T>(bias, d * 2 * s.gates() + at);
  }
  MPC_DEVICE T recurrent_bias(int64_t gate, int64_t u) const {
    return element_or_zero<T>(bias, (d * 2 + 1) * s.gates() + gate * s.hidden + u);
  }
  MPC_DEVICE T from_state(int64_t gate, int64_t b, int64_t u) const {
    return from_h[b * from_h_width + gate * s.hidden + u] + recurrent_bias(gate, u);
  }
  MPC_DEVICE T* kept(int64_t b, int64_t u) const { return gates + b * GruForward<T>::kKept * s.hidden + u; }
  MPC_DEVICE T open(GruGate gate, int64_t b, int64_t u, int64_t length) const {
    const T value = functors::sigmoid(from_input(gate, b, u, length) + from_state(gate, b, u));
    kept(b, u)[gate * s.hidden] = value;
    return value;
  }
};

/// The update and reset gates, and r h: what the product of the hidden gate is made from.
template <class T>
struct OpenStep {
  Step<T> step;
  T* reset_h;  // (B, H)
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t b = i / step.s.hidden;
    const int64_t u = i % step.s.hidden;
    const int64_t length = step.lengths.of(b);
    reset_h[i] = 0;  // read by the product, also for sequences that are over
    if (step.k >= length) return;
    step.open(kUpdateGate, b, u, length);
    reset_h[i] = step.open(kResetGate, b, u, length) * step.hidden[i];
  }
};

/// The hidden gate and the state after the step.
template <class T>
struct StateStep {
  Step<T> step;
  const T* from_reset;  // (B, H): the product with r h; null with linear_before_reset, when gates are yet to be opened
  T* next_hidden;       // (B, H), may be `hidden`
  Out<T> y;             // may have no data
  MPC_DEVICE void operator()(int64_t i) const {
    const Sizes& s = step.s;
    const int64_t b = i / s.hidden;
    const int64_t u = i % s.hidden;
    const int64_t length = step.lengths.of(b);
    const T before = step.hidden[i];
    next_hidden[i] = before;
    if (step.k >= length) return;
    T* mine = step.kept(b, u);
    T recurrent;
    if (from_reset == nullptr) {
      step.open(kUpdateGate, b, u, length);
      const T from_h = step.from_state(kHiddenGate, b, u);
      mine[kGruGates * s.hidden] = from_h;
      recurrent = step.open(kResetGate, b, u, length) * from_h;
    } else {
      recurrent = from_reset[i] + step.recurrent_bias(kHiddenGate, u);
    }
    const T update = mine[kUpdateGate * s.hidden];
    const T candidate = std::tanh(step.from_input(kHiddenGate, b, u, length) + recurrent);
    const T result = (1 - update) * candidate + update * before;
    mine[kHiddenGate * s.hidden] = candidate;
    next_hidden[i] = result;
    if (y.data != nullptr) y.set(s.y_at(s.time(step.d, step.k, length), step.d, b) + u, result);
  }
};

/// The state after the last step.
template <class T>
struct LastState {
  Sizes s;
  const T* hidden;
  Out<T> last_h;
  int64_t d;
  MPC_DEVICE void operator()(int64_t i) const { last_h.set(s.state_at(d, i / s.hidden) + i % s.hidden, hidden[i]); }
};

}  // namespace

template <class T>
Product::Form GruForward<T>::recurrent_form(const executor::NodeSpec& node, int64_t columns) const {
  // Kept states follow each other without gaps.
  const bool is_state_aligned = !keeps_steps_ || is_aligned_part(s_.batch * s_.hidden, compute_type(node));
  return {.rows = s_.batch,
          .columns = columns,
          .inner = s_.hidden,
          .trans_b = true,
          .a = compute_type(node),
          .b = node.inputs[kR].dtype,
          .y = compute_type(node),
          .is_aligned = is_state_aligned && parts_.is_aligned(s_, node.inputs[kR].dtype)};
}

template <class T>
GruForward<T>::GruForward(const executor::NodeSpec& node, const Sizes& sizes, bool keeps_steps,
                          const MakeOptions& options, Pieces& pieces)
    : s_(sizes),
      is_linear_before_(is_linear_before_reset(node)),
      keeps_steps_(keeps_steps),
      parts_(sizes, is_linear_before_),
      from_x_product_({.rows = s_.rows(),
                       .columns = s_.directions * s_.gates(),
                       .inner = s_.inputs,
                       .trans_b = true,
                       .a = node.inputs[kX].dtype,
                       .b = node.inputs[kW].dtype,
                       .y = compute_type(node)},
                      options),
      from_h_product_(recurrent_form(node, parts_.direct), options) {
  for (size_t i = 0; i < dtypes_.size(); ++i) {
    dtypes_[i] = input_dtype(node, i);
    is_present_[i] = has_input(node, i);
  }
  const int64_t states = s_.batch * s_.hidden;
  from_x_ = pieces.take(s_.rows() * s_.directions * s_.gates(), sizeof(T));
  from_h_ = pieces.take(s_.batch * parts_.direct, sizeof(T));
  hidden_ = pieces.take((keeps_steps ? s_.steps + 1 : 1) * states, sizeof(T));
  gates_ = pieces.take((keeps_steps ? s_.steps : 1) * states * kKept, sizeof(T));
  if (is_linear_before_) return;
  from_reset_product_.emplace(recurrent_form(node, parts_.reset), options);
  reset_h_ = pieces.take(states, sizeof(T));
  from_reset_ = pieces.take(states, sizeof(T));
}

template <class T>
Lengths GruForward<T>::lengths(const Launch& launch) const {
  return {{is_present_[kSequenceLens] ? launch.inputs[kSequenceLens] : nullptr, dtypes_[kSequenceLens]},
          s_.steps,
          faults_of(launch)};
}

template <class T>
void GruForward<T>::begin(const Launch& launch, void* workspace) const {
  from_x_product_.run(launch.stream, launch.inputs[kX], launch.inputs[kW], piece<T>(workspace, from_x_),
                      piece<std::byte>(workspace, product_workspace_));
}

template <class T>
void GruForward<T>::run(const Launch& launch, int64_t d, Out<T> y, void* workspace) const {
  const int64_t states = s_.batch * s_.hidden;
  T* from_h = piece<T>(workspace, from_h_);
  void* product_workspace = piece<std::byte>(workspace, product_workspace_);
  for_each(launch.stream, states, FirstState<T>{s_, operand(launch, kInitialH), hidden(workspace, 0), d}, "GRU");
  for (int64_t k = 0; k < s_.steps; ++k) {
    const T* before = hidden(workspace, k);
    from_h_product_.run(launch.stream, before, r_part(launch, d, 0), from_h, product_workspace);
    const Step<T> step{s_,
                       lengths(launch),
                       operand(launch, kBias),
                       piece<T>(workspace, from_x_),
                       from_h,
                       parts_.direct,
                       before,
                       gates(workspace, k),
                       d,
                       k};
    const T* from_reset = nullptr;
    if (!is_linear_before_) {
      T* reset_h = piece<T>(workspace, reset_h_);
      T* product = piece<T>(workspace, from_reset_);
      for_each(launch.stream, states, OpenStep<T>{step, reset_h}, "GRU");
      from_reset_product_->run(launch.stream, reset_h, r_part(launch, d, parts_.direct), product, product_workspace);
      from_reset = product;
    }
    for_each(launch.stream, states, StateStep<T>{step, from_reset, hidden(workspace, k + 1), y}, "GRU");
  }
}

template class GruForward<float>;
template class GruForward<double>;

namespace {

template <class T>
class ForwardKernel final : public Kernel {
 public:
  ForwardKernel(const executor::NodeSpec& node, const MakeOptions& options)
      : s_(*node.attributes, node.inputs[kX].shape, kGruGates), forward_(node, s_, false, options, pieces_) {
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
      if (launch.out<void>(1) == nullptr) continue;
      for_each(launch.stream, s_.batch * s_.hidden,
               LastState<T>{s_, forward_.hidden(launch.workspace, s_.steps), {launch.out<void>(1), dtypes_[1]}, d},
               "GRU");
    }
  }
  int64_t workspace_bytes() const override { return pieces_.bytes(); }
  std::string_view name() const override { return name_; }

 private:
  Pieces pieces_;
  Sizes s_;
  GruForward<T> forward_;
  std::array<DType, 2> dtypes_{};
  int64_t y_bytes_ = 0;
  bool has_gaps_ = false;
  std::string name_;
};

}  // namespace
}  // namespace recurrence

KernelOrReason gru(const executor::NodeSpec& node, const MakeOptions& options) {
  return with_float_type(node, [&](auto tag) -> KernelOrReason {
    return {std::make_unique<recurrence::ForwardKernel<decltype(tag)>>(node, options), {}};
  });
}

}  // namespace mpc::cuda
