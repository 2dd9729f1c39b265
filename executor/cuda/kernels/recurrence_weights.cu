// The weight gradients of LSTM and GRU: matrix products of dGates with x and with the hidden states.

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "executor/cuda/kernels/recurrence.h"

namespace mpc::cuda {
namespace recurrence {
namespace {

/// Of one direction and every (t, b): its dGates, its x and the hidden state before it, as rows that lie together;
/// zeros behind the end of a sequence, where operands may hold anything.
template <class T>
struct GatherRows {
  Sizes s;
  Lengths lengths;
  In<T> dgates, x, y, initial_h;  // the last without data: zeros
  T* gate_rows;                   // (rows, GH)
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

/// How the hidden gate of GRU, its last, is reset; other cells have no reset gates.
enum class Reset : uint8_t { none, before_product, after_product };

/// What dR of GRU is made of beside GatherRows. Element i is unit i % H of row i / H.
///   before_product   dGates of the other gates (rows, 2H), those of the hidden gate (rows, H), and r h (rows, H)
///   after_product    dGates with r times those of the hidden gate (rows, 3H)
template <class T>
struct GatherReset {
  Sizes s;
  Lengths lengths;
  In<T> reset;         // (S, D, B, H)
  const T* gate_rows;  // (rows, 3H)
  const T* h_rows;     // (rows, H)
  T* first_gates;      // (rows, 2H) or (rows, 3H)
  T* last_gates;       // (rows, H), or null after the product
  T* reset_h_rows;     // (rows, H), or null after the product
  int64_t d;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / s.hidden;
    const int64_t u = i % s.hidden;
    const int64_t t = row / s.batch;
    const int64_t b = row % s.batch;
    const T r = t < lengths.of(b) ? reset[s.reset_at(t, d, b) + u] : T{0};
    const bool is_after = last_gates == nullptr;
    const int64_t last = s.gate_count - 1;
    const int64_t width = (is_after ? s.gate_count : last) * s.hidden;
    const T* from = gate_rows + row * s.gates() + u;
    for (int64_t gate = 0; gate < last; ++gate) first_gates[row * width + gate * s.hidden + u] = from[gate * s.hidden];
    const T last_gate = from[last * s.hidden];
    if (is_after) {
      first_gates[row * width + last * s.hidden + u] = r * last_gate;
    } else {
      last_gates[i] = last_gate;
      reset_h_rows[i] = r * h_rows[i];
    }
  }
};

/// Both halves of dbias: the sums of dGates, and of what the products with the hidden state have.
template <class T>
struct BiasGrad {
  Sizes s;
  const T* gate_rows;
  const T* recurrent_rows;  // may be gate_rows
  Out<T> dbias;
  int64_t d;
  MPC_DEVICE double sum(Block& block, const T* rows, int64_t column) const {
    return block.sum(s.rows(), [&](int64_t row) { return static_cast<double>(rows[row * s.gates() + column]); });
  }
  MPC_DEVICE void operator()(Block& block, int64_t column) const {
    const double first = sum(block, gate_rows, column);
    const double second = recurrent_rows == gate_rows ? first : sum(block, recurrent_rows, column);
    block.for_each(2, [&](int64_t half) {
      dbias.set((d * 2 + half) * s.gates() + column, static_cast<T>(half == 0 ? first : second));
    });
  }
};

/// Which cell a weight gradient is of.
struct CellForm {
  const char* name;
  int64_t gate_count;
  size_t sequence_lens;  // the operand; initial_h is the one after it
  Reset reset;
};
constexpr size_t kResetGates = 3;  // the operand of GRU

/// (dGates, X, Y, reset gates, sequence_lens?, initial_h?) -> dW?, dR?, dbias?; LSTM has no reset gates.
template <class T>
class WeightGradKernel final : public Kernel {
 public:
  WeightGradKernel(const executor::NodeSpec& node, const CellForm& cell, const MakeOptions& options)
      : s_(*node.attributes, node.inputs[1].shape, cell.gate_count),
        cell_(cell),
        has_lengths_(has_input(node, cell.sequence_lens)),
        has_initial_h_(has_input(node, cell.sequence_lens + 1)),
        first_count_((cell.reset == Reset::before_product ? cell.gate_count - 1 : cell.gate_count) * s_.hidden),
        to_w_(form(s_.gates(), s_.inputs, output_dtype(node, 0)), options),
        to_r_(form(first_count_, s_.hidden, output_dtype(node, 1)), options) {
    name_ = "cuda:" + std::string(cell.name) + " with " + std::string(to_w_.name());
    gate_rows_ = pieces_.take(s_.rows() * s_.gates(), sizeof(T));
    x_rows_ = pieces_.take(s_.rows() * s_.inputs, sizeof(T));
    h_rows_ = pieces_.take(s_.rows() * s_.hidden, sizeof(T));
    int64_t product_bytes = std::max(to_w_.workspace_bytes(), to_r_.workspace_bytes());
    if (cell.reset != Reset::none) first_gates_ = pieces_.take(s_.rows() * first_count_, sizeof(T));
    if (cell.reset == Reset::before_product) {
      Product::Form last = form(s_.hidden, s_.hidden, output_dtype(node, 1));
      last.is_aligned = last.is_aligned && is_aligned_part(first_count_ * s_.hidden, last.y);
      to_last_r_.emplace(last, options);
      product_bytes = std::max(product_bytes, to_last_r_->workspace_bytes());
      last_gates_ = pieces_.take(s_.rows() * s_.hidden, sizeof(T));
      reset_h_rows_ = pieces_.take(s_.rows() * s_.hidden, sizeof(T));
    }
    product_workspace_ = pieces_.take(product_bytes, 1);
    for (size_t i = 0; i < inputs_.size(); ++i) inputs_[i] = input_dtype(node, i);
    for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i] = output_dtype(node, i);
  }

  void run(const Launch& launch) override {
    for (int64_t d = 0; d < s_.directions; ++d) run_direction(launch, d);
  }
  int64_t workspace_bytes() const override { return pieces_.bytes(); }
  std::string_view name() const override { return name_; }

 private:
  /// dGates' x: (gates, columns).
  Product::Form form(int64_t gates, int64_t columns, DType result) const {
    return {.rows = gates,
            .columns = columns,
            .inner = s_.rows(),
            .trans_a = true,
            .a = dtype_of(T{}),
            .b = dtype_of(T{}),
            .y = result,
            .is_aligned = s_.directions == 1};
  }

  In<T> operand(const Launch& launch, size_t i, bool is_present) const {
    return {is_present ? launch.inputs[i] : nullptr, inputs_[i]};
  }

  void run_direction(const Launch& launch, int64_t d) const {
    T* gate_rows = piece<T>(launch.workspace, gate_rows_);
    T* x_rows = piece<T>(launch.workspace, x_rows_);
    T* h_rows = piece<T>(launch.workspace, h_rows_);
    const size_t lens = cell_.sequence_lens;
    const Lengths lengths{{has_lengths_ ? launch.inputs[lens] : nullptr, inputs_[lens]}, s_.steps, faults_of(launch)};
    for_each(launch.stream, s_.rows() * (s_.gates() + s_.inputs + s_.hidden),
             GatherRows<T>{s_, lengths, operand(launch, 0, true), operand(launch, 1, true), operand(launch, 2, true),
                           operand(launch, lens + 1, has_initial_h_), gate_rows, x_rows, h_rows, d},
             "recurrent rows");
    const bool is_before = cell_.reset == Reset::before_product;
    T* first_gates = cell_.reset == Reset::none ? gate_rows : piece<T>(launch.workspace, first_gates_);
    T* last_gates = is_before ? piece<T>(launch.workspace, last_gates_) : nullptr;
    T* reset_h_rows = is_before ? piece<T>(launch.workspace, reset_h_rows_) : nullptr;
    if (cell_.reset != Reset::none) {
      for_each(launch.stream, s_.rows() * s_.hidden,
               GatherReset<T>{s_, lengths, operand(launch, kResetGates, true), gate_rows, h_rows, first_gates,
                              last_gates, reset_h_rows, d},
               "GRU reset rows");
    }
    const auto part = [&](size_t output, int64_t columns, int64_t row) {
      return launch.out<std::byte>(output) + (d * s_.gates() + row) * columns * dtype_bytes(outputs_[output]);
    };
    void* product_workspace = piece<std::byte>(launch.workspace, product_workspace_);
    if (launch.out<void>(0) != nullptr) {
      to_w_.run(launch.stream, gate_rows, x_rows, part(0, s_.inputs, 0), product_workspace);
    }
    if (launch.out<void>(1) != nullptr) {
      to_r_.run(launch.stream, first_gates, h_rows, part(1, s_.hidden, 0), product_workspace);
      if (is_before) {
        to_last_r_->run(launch.stream, last_gates, reset_h_rows, part(1, s_.hidden, first_count_), product_workspace);
      }
    }
    if (launch.out<void>(2) != nullptr) {
      for_each_block(
          launch.stream, s_.gates(),
          BiasGrad<T>{s_, gate_rows, is_before ? gate_rows : first_gates, {launch.outputs[2], outputs_[2]}, d},
          "recurrent bias");
    }
  }

  Sizes s_;
  CellForm cell_;
  bool has_lengths_, has_initial_h_;
  int64_t first_count_;  // rows of R that are products with h as it is
  Pieces pieces_;
  Product to_w_, to_r_;
  std::optional<Product> to_last_r_;  // with r h
  int64_t gate_rows_, x_rows_, h_rows_, product_workspace_;
  int64_t first_gates_ = 0, last_gates_ = 0, reset_h_rows_ = 0;
  std::array<DType, 6> inputs_{};
  std::array<DType, 3> outputs_{};
  std::string name_;
};

KernelOrReason make_weight_grad(const executor::NodeSpec& node, const CellForm& cell, const MakeOptions& options) {
  return with_float_type(node, [&](auto tag) -> KernelOrReason {
    return {std::make_unique<WeightGradKernel<decltype(tag)>>(node, cell, options), {}};
  });
}

}  // namespace
}  // namespace recurrence

KernelOrReason gru_weight_grad(const executor::NodeSpec& node, const MakeOptions& options) {
  const bool is_linear_before_reset = node.attributes->integer("linear_before_reset") == 1;
  constexpr int64_t kGates = 3;
  constexpr size_t kLengths = 4;
  return recurrence::make_weight_grad(
      node,
      {"gru", kGates, kLengths,
       is_linear_before_reset ? recurrence::Reset::after_product : recurrence::Reset::before_product},
      options);
}

KernelOrReason lstm_weight_grad(const executor::NodeSpec& node, const MakeOptions& options) {
  constexpr int64_t kGates = 4;
  constexpr size_t kLengths = 3;
  return recurrence::make_weight_grad(node, {"lstm", kGates, kLengths, recurrence::Reset::none}, options);
}

}  // namespace mpc::cuda
