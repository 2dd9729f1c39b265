// GRUInputGrad: runs the recurrence again and then backwards.

#include "executor/cuda/kernels/gru.h"

namespace mpc::cuda {
namespace recurrence {
namespace {

constexpr size_t kDX = 0, kDInitialH = 1, kDGates = 2, kReset = 3, kHidden = 4, kResults = 5;

/// What steps backwards share. Element i is unit i % H of sequence i / H.
template <class T>
struct Backward {
  Sizes s;
  Lengths lengths;
  const T* gates;   // (B, 4H) of this step
  const T* hidden;  // (B, H) before it
  T* direct;        // (B, H): what reaches the state past the products with R
  T* step_grads;    // (B, 3H), or without linear_before_reset (B, 2H): of the products with h; zeros for what is over
  int64_t step_width;
  T* row_grads;   // (rows, D 3H), of the gates before their activations
  Out<T> dgates;  // (S, D, B, 3H), may have no data
  Out<T> reset;   // (S, D, B, H), may have no data
  int64_t d;
  int64_t k;

  MPC_DEVICE T kept(int64_t part, int64_t b, int64_t u) const {
    return gates[(b * GruForward<T>::kKept + part) * s.hidden + u];
  }
  MPC_DEVICE void store(GruGate gate, int64_t b, int64_t u, int64_t length, T grad) const {
    const int64_t t = s.time(d, k, length);
    const int64_t at = gate * s.hidden + u;
    row_grads[(s.row(t, b) * s.directions + d) * s.gates() + at] = grad;
    if (dgates.data != nullptr) dgates.set(s.gates_at(t, d, b) + at, grad);
  }
  /// @param to_reset the gradient of r
  MPC_DEVICE void store_reset(int64_t b, int64_t u, int64_t length, T to_reset) const {
    const T r = kept(kResetGate, b, u);
    const T grad = to_reset * r * (1 - r);
    store(kResetGate, b, u, length, grad);
    step_grads[b * step_width + kResetGate * s.hidden + u] = grad;
    if (reset.data != nullptr) reset.set(s.reset_at(s.time(d, k, length), d, b) + u, r);
  }
};

/// From the gradient of the state after the step, those of the update and hidden gates; with linear_before_reset of the
/// reset gate too.
template <class T>
struct StateBackward {
  Backward<T> back;
  In<T> dy, dy_h;        // without data: zeros
  const T* dh;           // (B, H): what reaches the state after the step by products with R
  T* hidden_gate_grads;  // (B, H), or null with linear_before_reset
  MPC_DEVICE void operator()(int64_t i) const {
    const Sizes& s = back.s;
    const int64_t b = i / s.hidden;
    const int64_t u = i % s.hidden;
    const int64_t length = back.lengths.of(b);
    T* step_grads = back.step_grads + b * back.step_width + u;
    if (back.k >= length) {
      for (int64_t at = 0; at < back.step_width; at += s.hidden) step_grads[at] = 0;
      if (hidden_gate_grads != nullptr) hidden_gate_grads[i] = 0;
      return;
    }
    T to_h = back.k + 1 == length ? element_or_zero<T>(dy_h, s.state_at(back.d, b) + u) : back.direct[i] + dh[i];
    if (dy.data != nullptr) to_h += dy[s.y_at(s.time(back.d, back.k, length), back.d, b) + u];
    const T update = back.kept(kUpdateGate, b, u);
    const T candidate = back.kept(kHiddenGate, b, u);
    const T update_grad = to_h * (back.hidden[i] - candidate) * update * (1 - update);
    const T hidden_grad = to_h * (1 - update) * (1 - candidate * candidate);
    back.direct[i] = to_h * update;
    back.store(kUpdateGate, b, u, length, update_grad);
    back.store(kHiddenGate, b, u, length, hidden_grad);
    step_grads[kUpdateGate * s.hidden] = update_grad;
    if (hidden_gate_grads != nullptr) {
      hidden_gate_grads[i] = hidden_grad;
      return;
    }
    back.store_reset(b, u, length, hidden_grad * back.kept(kGruGates, b, u));
    step_grads[kHiddenGate * s.hidden] = hidden_grad * back.kept(kResetGate, b, u);
  }
};

/// From the gradient of r h, that of the reset gate.
template <class T>
struct ResetBackward {
  Backward<T> back;
  const T* dreset_h;  // (B, H)
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t b = i / back.s.hidden;
    const int64_t u = i % back.s.hidden;
    const int64_t length = back.lengths.of(b);
    if (back.k >= length) {
      back.step_grads[b * back.step_width + kResetGate * back.s.hidden + u] = 0;
      return;
    }
    back.direct[i] += dreset_h[i] * back.kept(kResetGate, b, u);
    back.store_reset(b, u, length, dreset_h[i] * back.hidden[i]);
  }
};

template <class T>
struct FirstGrad {
  Sizes s;
  Lengths lengths;
  In<T> dy_h;  // without data: zeros
  const T* direct;
  const T* dh;
  Out<T> dinitial_h;
  int64_t d;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t b = i / s.hidden;
    const int64_t at = s.state_at(d, b) + i % s.hidden;
    dinitial_h.set(at, lengths.of(b) == 0 ? element_or_zero<T>(dy_h, at) : direct[i] + dh[i]);
  }
};

template <class T>
class InputGradKernel final : public Kernel {
 public:
  InputGradKernel(const executor::NodeSpec& node, const MakeOptions& options)
      : s_(*node.attributes, node.inputs[kX].shape, kGruGates),
        parts_(s_, is_linear_before_reset(node)),
        forward_(node, s_, true, options, pieces_),
        to_h_(recurrent_form(node, parts_.direct), options),
        to_x_({.rows = s_.rows(),
               .columns = s_.inputs,
               .inner = s_.directions * s_.gates(),
               .a = dtype_of(T{}),
               .b = node.inputs[kW].dtype,
               .y = output_dtype(node, kDX)},
              options),
        has_gaps_(has_input(node, kSequenceLens)) {
    const int64_t states = s_.batch * s_.hidden;
    step_grads_ = pieces_.take(s_.batch * parts_.direct, sizeof(T));
    row_grads_ = pieces_.take(row_grads_count(), sizeof(T));
    dh_ = pieces_.take(states, sizeof(T));
    direct_ = pieces_.take(states, sizeof(T));
    int64_t most = std::max({forward_.product_bytes(), to_h_.workspace_bytes(), to_x_.workspace_bytes()});
    if (parts_.reset > 0) {
      to_reset_h_.emplace(recurrent_form(node, parts_.reset), options);
      most = std::max(most, to_reset_h_->workspace_bytes());
      hidden_gate_grads_ = pieces_.take(states, sizeof(T));
      dreset_h_ = pieces_.take(states, sizeof(T));
    }
    product_workspace_ = pieces_.take(most, 1);
    forward_.set_product_workspace(product_workspace_);
    for (size_t i = 0; i < kGrads; ++i) grads_[i] = input_dtype(node, kDY + i);
    for (size_t i = 0; i < kGrads; ++i) has_grad_[i] = has_input(node, kDY + i);
    for (size_t i = 0; i < kResults; ++i) {
      results_[i] = output_dtype(node, i);
      bytes_[i] = has_output(node, i) ? byte_size(node.outputs[i].shape, results_[i]) : 0;
    }
    name_ = forward_.kernel_name();
  }

  void run(const Launch& launch) override {
    void* workspace = launch.workspace;
    if (has_gaps_) {  // steps behind the end of a sequence are written by no one else
      fill_bytes(launch.stream, piece<T>(workspace, row_grads_), 0,
                 row_grads_count() * static_cast<int64_t>(sizeof(T)));
      for (const size_t i : {kDGates, kReset, kHidden}) {
        fill_bytes(launch.stream, launch.out<void>(i), 0, bytes_[i]);
      }
    }
    forward_.begin(launch, workspace);
    for (int64_t d = 0; d < s_.directions; ++d) run_direction(launch, d);
    if (launch.out<void>(kDX) == nullptr) return;
    to_x_.run(launch.stream, piece<T>(workspace, row_grads_), launch.inputs[kW], launch.outputs[kDX],
              piece<std::byte>(workspace, product_workspace_));
  }
  int64_t workspace_bytes() const override { return pieces_.bytes(); }
  std::string_view name() const override { return name_; }

 private:
  static constexpr size_t kGrads = 2;  // dY, dY_h

  /// Gradients of `inner` gates times their rows of R.
  Product::Form recurrent_form(const executor::NodeSpec& node, int64_t inner) const {
    return {.rows = s_.batch,
            .columns = s_.hidden,
            .inner = inner,
            .a = dtype_of(T{}),
            .b = node.inputs[kR].dtype,
            .y = dtype_of(T{}),
            .is_aligned = parts_.is_aligned(s_, node.inputs[kR].dtype)};
  }
  int64_t row_grads_count() const { return s_.rows() * s_.directions * s_.gates(); }
  Out<T> result(const Launch& launch, size_t i) const { return {launch.out<void>(i), results_[i]}; }
  In<T> grad(const Launch& launch, size_t i) const {
    return {has_grad_[i - kDY] ? launch.inputs[i] : nullptr, grads_[i - kDY]};
  }

  void run_direction(const Launch& launch, int64_t d) const {
    void* workspace = launch.workspace;
    void* product_workspace = piece<std::byte>(workspace, product_workspace_);
    const int64_t states = s_.batch * s_.hidden;
    forward_.run(launch, d, result(launch, kHidden), workspace);
    const Lengths lengths = forward_.lengths(launch);
    const In<T> dy_h = grad(launch, kDYh);
    T* step_grads = piece<T>(workspace, step_grads_);
    T* dh = piece<T>(workspace, dh_);
    T* direct = piece<T>(workspace, direct_);
    T* hidden_gate_grads = to_reset_h_ ? piece<T>(workspace, hidden_gate_grads_) : nullptr;
    for (int64_t k = s_.steps - 1; k >= 0; --k) {
      const Backward<T> back{s_,
                             lengths,
                             forward_.gates(workspace, k),
                             forward_.hidden(workspace, k),
                             direct,
                             step_grads,
                             parts_.direct,
                             piece<T>(workspace, row_grads_),
                             result(launch, kDGates),
                             result(launch, kReset),
                             d,
                             k};
      for_each(launch.stream, states, StateBackward<T>{back, grad(launch, kDY), dy_h, dh, hidden_gate_grads},
               "GRU backwards");
      if (to_reset_h_) {
        T* dreset_h = piece<T>(workspace, dreset_h_);
        to_reset_h_->run(launch.stream, hidden_gate_grads, forward_.r_part(launch, d, parts_.direct), dreset_h,
                         product_workspace);
        for_each(launch.stream, states, ResetBackward<T>{back, dreset_h}, "GRU backwards");
      }
      to_h_.run(launch.stream, step_grads, forward_.r_part(launch, d, 0), dh, product_workspace);
    }
    if (launch.out<void>(kDInitialH) == nullptr) return;
    for_each(launch.stream, states, FirstGrad<T>{s_, lengths, dy_h, direct, dh, result(launch, kDInitialH), d},
             "GRU backwards");
  }

  Pieces pieces_;
  Sizes s_;
  RecurrentParts parts_;
  GruForward<T> forward_;
  Product to_h_, to_x_;
  std::optional<Product> to_reset_h_;
  bool has_gaps_;
  int64_t step_grads_, row_grads_, dh_, direct_, product_workspace_;
  int64_t hidden_gate_grads_ = 0, dreset_h_ = 0;
  std::array<DType, kGrads> grads_{};
  std::array<bool, kGrads> has_grad_{};
  std::array<DType, kResults> results_{};
  std::array<int64_t, kResults> bytes_{};
  std::string name_;
};

}  // namespace
}  // namespace recurrence

KernelOrReason gru_input_grad(const executor::NodeSpec& node, const MakeOptions& options) {
  return with_float_type(node, [&](auto tag) -> KernelOrReason {
    return {std::make_unique<recurrence::InputGradKernel<decltype(tag)>>(node, options), {}};
  });
}

}  // namespace mpc::cuda
