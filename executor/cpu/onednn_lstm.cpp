// LSTM and its gradients in f32: matrix products by oneDNN's sgemm, gates by vector loops. Sequences of full length,
// without peepholes. Inside, everything is time-major; gates are in ONNX's order (input, output, forget, cell).
//
//   forward    G (T B, 4H) = X W^T in one product, then step by step G_t += h R^T, gates, cell, hidden state
//   gradient   the forward is done again, then backwards in time: dG_t, dh = dG_t R; at the end dX = dG W in one
//   product weights    dW = dG^T X, dR = dG^T (hidden states one step earlier), db = sum of dG

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include <oneapi/dnnl/dnnl.h>

#include "compiler/base/error.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/row_math.h"
#include "executor/cpu/support.h"
#include "executor/cpu/vector_math.h"

namespace mpc::cpu {
namespace {

enum Input : size_t { kX, kW, kR, kBias, kSequenceLens, kInitialH, kInitialC, kPeepholes, kDY, kDYh, kDYc };

struct Matrix {
  const float* data;
  int64_t row_step;
  bool is_transposed = false;
};

/// y (rows, columns; row_step apart) = a b + beta y.
void multiply(int64_t rows, int64_t columns, int64_t inner, Matrix a, Matrix b, float beta, float* y,
              int64_t row_step) {
  const dnnl_status_t status = dnnl_sgemm(a.is_transposed ? 'T' : 'N', b.is_transposed ? 'T' : 'N', rows, columns,
                                          inner, 1.0f, a.data, a.row_step, b.data, b.row_step, beta, y, row_step);
  MPC_CHECK(status == dnnl_success, "oneDNN's sgemm refused its operands");
}

struct Sizes {
  Sizes(const Attributes& attributes, const Shape& x)
      : is_batch_first(attributes.integer("layout") == 1),
        steps(x[is_batch_first ? 1 : 0]),
        batch(x[is_batch_first ? 0 : 1]),
        inputs(x[2]),
        hidden(attributes.integer("hidden_size")),
        directions(attributes.text("direction") == "bidirectional" ? 2 : 1),
        is_first_reverse(attributes.text("direction") == "reverse") {}
  bool is_reverse(int64_t d) const { return is_first_reverse || d == 1; }
  /// The time of the k-th step in a direction.
  int64_t time(int64_t d, int64_t k) const { return is_reverse(d) ? steps - 1 - k : k; }
  int64_t rows() const { return 4 * hidden; }
  int64_t x_at(int64_t t, int64_t b) const { return (is_batch_first ? b * steps + t : t * batch + b) * inputs; }
  int64_t y_at(int64_t t, int64_t d, int64_t b) const {
    return (is_batch_first ? (b * steps + t) * directions + d : (t * directions + d) * batch + b) * hidden;
  }
  int64_t state_at(int64_t d, int64_t b) const {
    return (is_batch_first ? b * directions + d : d * batch + b) * hidden;
  }
  int64_t gates_at(int64_t t, int64_t d) const { return (t * directions + d) * batch * rows(); }

  bool is_batch_first;
  int64_t steps, batch, inputs, hidden, directions;
  bool is_first_reverse;
};

/// Gives out parts of the thread's scratch memory.
class ScratchParts {
 public:
  explicit ScratchParts(std::initializer_list<int64_t> counts) {
    int64_t total = 0;
    for (const int64_t count : counts) total += padded(count);
    next_ = reinterpret_cast<float*>(thread_scratch(total * static_cast<int64_t>(sizeof(float))).data());
  }
  float* take(int64_t count) {
    float* part = next_;
    next_ += padded(count);
    return part;
  }

 private:
  static int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }
  float* next_;
};

/// x in time-major order: itself, or a copy in `buffer`.
const float* time_major(const Sizes& s, const float* x, float* buffer) {
  if (!s.is_batch_first) return x;
  for (int64_t t = 0; t < s.steps; ++t) {
    for (int64_t b = 0; b < s.batch; ++b)
      std::copy_n(x + s.x_at(t, b), s.inputs, buffer + (t * s.batch + b) * s.inputs);
  }
  return buffer;
}

void load_state(const Sizes& s, const KernelCall& call, size_t operand, int64_t d, float* state) {
  if (!call.has_input(operand)) {
    std::fill_n(state, s.batch * s.hidden, 0.0f);
    return;
  }
  const float* from = call.inputs[operand].as<float>();
  for (int64_t b = 0; b < s.batch; ++b) std::copy_n(from + s.state_at(d, b), s.hidden, state + b * s.hidden);
}

void store_state(const Sizes& s, const KernelCall& call, size_t output, int64_t d, const float* state) {
  if (!call.has_output(output)) return;
  float* to = call.outputs[output].as<float>();
  for (int64_t b = 0; b < s.batch; ++b) std::copy_n(state + b * s.hidden, s.hidden, to + s.state_at(d, b));
}

// gates (4, H) of one sequence, before their activations; c, next_c, h (H).
MPC_CLONES void step_forward(float* gates, const float* c, float* next_c, float* h, int64_t hidden) {
  float* input = gates;
  float* output = gates + hidden;
  float* forget = gates + 2 * hidden;
  float* cell = gates + 3 * hidden;
#pragma GCC ivdep
  for (int64_t u = 0; u < hidden; ++u) {
    input[u] = fast_sigmoid(input[u]);
    output[u] = fast_sigmoid(output[u]);
    forget[u] = fast_sigmoid(forget[u]);
    cell[u] = fast_tanh(cell[u]);
    next_c[u] = forget[u] * c[u] + input[u] * cell[u];
    h[u] = output[u] * fast_tanh(next_c[u]);
  }
}

// dc comes in as the gradient of the cell after the step and leaves as that before it.
MPC_CLONES void step_backward(const float* gates, const float* c, const float* next_c, const float* dh, float* dc,
                              float* dgates, int64_t hidden) {
  const float* input = gates;
  const float* output = gates + hidden;
  const float* forget = gates + 2 * hidden;
  const float* cell = gates + 3 * hidden;
#pragma GCC ivdep
  for (int64_t u = 0; u < hidden; ++u) {
    const float tanh_cell = fast_tanh(next_c[u]);
    const float total = dc[u] + dh[u] * output[u] * (1.0f - tanh_cell * tanh_cell);
    dgates[u] = total * cell[u] * input[u] * (1.0f - input[u]);
    dgates[hidden + u] = dh[u] * tanh_cell * output[u] * (1.0f - output[u]);
    dgates[2 * hidden + u] = total * c[u] * forget[u] * (1.0f - forget[u]);
    dgates[3 * hidden + u] = total * input[u] * (1.0f - cell[u] * cell[u]);
    dc[u] = total * forget[u];
  }
}

/// One direction, run forward. gates: (T, B, 4H) by time; cells, hidden: (T + 1, B, H) by step, before step k at k.
struct Forward {
  float* gates;
  float* cells;
  float* states;
};

void run_forward(const Sizes& s, const KernelCall& call, const float* x, int64_t d, const Forward& f) {
  const float* w = call.inputs[kW].as<float>() + d * s.rows() * s.inputs;
  const float* r = call.inputs[kR].as<float>() + d * s.rows() * s.hidden;
  multiply(s.steps * s.batch, s.rows(), s.inputs, {x, s.inputs}, {w, s.inputs, true}, 0.0f, f.gates, s.rows());
  if (call.has_input(kBias)) {
    const float* bias = call.inputs[kBias].as<float>() + d * 2 * s.rows();
    for (int64_t row = 0; row < s.steps * s.batch; ++row) {
      row_add(bias, f.gates + row * s.rows(), s.rows());
      row_add(bias + s.rows(), f.gates + row * s.rows(), s.rows());
    }
  }
  load_state(s, call, kInitialH, d, f.states);
  load_state(s, call, kInitialC, d, f.cells);
  const int64_t state = s.batch * s.hidden;
  for (int64_t k = 0; k < s.steps; ++k) {
    float* gates = f.gates + s.time(d, k) * s.batch * s.rows();
    multiply(s.batch, s.rows(), s.hidden, {f.states + k * state, s.hidden}, {r, s.hidden, true}, 1.0f, gates, s.rows());
    for (int64_t b = 0; b < s.batch; ++b) {
      const int64_t at = k * state + b * s.hidden;
      step_forward(gates + b * s.rows(), f.cells + at, f.cells + at + state, f.states + at + state, s.hidden);
    }
  }
}

void store_sequence(const Sizes& s, const KernelCall& call, size_t output, int64_t d, const float* states) {
  if (!call.has_output(output)) return;
  float* y = call.outputs[output].as<float>();
  for (int64_t k = 0; k < s.steps; ++k) {
    for (int64_t b = 0; b < s.batch; ++b) {
      std::copy_n(states + ((k + 1) * s.batch + b) * s.hidden, s.hidden, y + s.y_at(s.time(d, k), d, b));
    }
  }
}

void lstm(const KernelCall& call, int) {
  const Sizes s(call.attributes, call.inputs[kX].shape);
  const int64_t state = s.batch * s.hidden;
  const int64_t gate_count = s.steps * s.batch * s.rows();
  const int64_t states_count = (s.steps + 1) * state;
  ScratchParts parts({s.steps * s.batch * s.inputs, gate_count, states_count, states_count});
  const float* x = time_major(s, call.inputs[kX].as<float>(), parts.take(s.steps * s.batch * s.inputs));
  const Forward f{parts.take(gate_count), parts.take(states_count), parts.take(states_count)};
  for (int64_t d = 0; d < s.directions; ++d) {
    run_forward(s, call, x, d, f);
    store_sequence(s, call, 0, d, f.states);
    store_state(s, call, 1, d, f.states + s.steps * state);
    store_state(s, call, 2, d, f.cells + s.steps * state);
  }
}

/// Runs one direction backwards; dgates (T, B, 4H) by time. dh and dc leave as the gradients of the initial states.
void run_backward(const Sizes& s, const KernelCall& call, int64_t d, const Forward& f, float* dh, float* dc,
                  float* dgates) {
  const float* r = call.inputs[kR].as<float>() + d * s.rows() * s.hidden;
  const float* dy = call.has_input(kDY) ? call.inputs[kDY].as<float>() : nullptr;
  load_state(s, call, kDYh, d, dh);
  load_state(s, call, kDYc, d, dc);
  for (int64_t k = s.steps - 1; k >= 0; --k) {
    const int64_t t = s.time(d, k);
    float* step_gates = dgates + t * s.batch * s.rows();
    for (int64_t b = 0; b < s.batch; ++b) {
      if (dy != nullptr) row_add(dy + s.y_at(t, d, b), dh + b * s.hidden, s.hidden);
      const int64_t at = (k * s.batch + b) * s.hidden;
      step_backward(f.gates + (t * s.batch + b) * s.rows(), f.cells + at, f.cells + at + s.batch * s.hidden,
                    dh + b * s.hidden, dc + b * s.hidden, step_gates + b * s.rows(), s.hidden);
    }
    multiply(s.batch, s.hidden, s.rows(), {step_gates, s.rows()}, {r, s.hidden}, 0.0f, dh, s.hidden);
  }
}

// Outputs: dX, d initial_h, d initial_c, -, dgates, hidden states.
void lstm_input_grad(const KernelCall& call, int) {
  const Sizes s(call.attributes, call.inputs[kX].shape);
  const int64_t state = s.batch * s.hidden;
  const int64_t x_count = s.steps * s.batch * s.inputs;
  const int64_t gate_count = s.steps * s.batch * s.rows();
  const int64_t states_count = (s.steps + 1) * state;
  ScratchParts parts({x_count, x_count, gate_count, gate_count, states_count, states_count, state, state});
  const float* x = time_major(s, call.inputs[kX].as<float>(), parts.take(x_count));
  float* dx = parts.take(x_count);
  float* dgates = parts.take(gate_count);
  const Forward f{parts.take(gate_count), parts.take(states_count), parts.take(states_count)};
  float* dh = parts.take(state);
  float* dc = parts.take(state);
  for (int64_t d = 0; d < s.directions; ++d) {
    run_forward(s, call, x, d, f);
    run_backward(s, call, d, f, dh, dc, dgates);
    const float* w = call.inputs[kW].as<float>() + d * s.rows() * s.inputs;
    multiply(s.steps * s.batch, s.inputs, s.rows(), {dgates, s.rows()}, {w, s.inputs}, d == 0 ? 0.0f : 1.0f, dx,
             s.inputs);
    store_state(s, call, 1, d, dh);
    store_state(s, call, 2, d, dc);
    for (int64_t t = 0; call.has_output(4) && t < s.steps; ++t) {
      std::copy_n(dgates + t * s.batch * s.rows(), s.batch * s.rows(), call.outputs[4].as<float>() + s.gates_at(t, d));
    }
    store_sequence(s, call, 5, d, f.states);
  }
  for (int64_t t = 0; call.has_output(0) && t < s.steps; ++t) {
    for (int64_t b = 0; b < s.batch; ++b) {
      std::copy_n(dx + (t * s.batch + b) * s.inputs, s.inputs, call.outputs[0].as<float>() + s.x_at(t, b));
    }
  }
}

// Inputs: dgates, X, hidden states, -, initial_h?. Outputs: dW, dR, db.
void lstm_weight_grad(const KernelCall& call, int) {
  const Sizes s(call.attributes, call.inputs[1].shape);
  const int64_t rows = s.steps * s.batch;
  constexpr size_t kHidden = 2;
  constexpr size_t kFirstHidden = 4;
  ScratchParts parts({rows * s.inputs, rows * s.rows(), rows * s.hidden, 2 * s.rows()});
  const float* x = time_major(s, call.inputs[1].as<float>(), parts.take(rows * s.inputs));
  float* dgates = parts.take(rows * s.rows());
  float* before = parts.take(rows * s.hidden);  // (T, B, H) by time
  double* sums = reinterpret_cast<double*>(parts.take(2 * s.rows()));
  const float* y = call.inputs[kHidden].as<float>();
  for (int64_t d = 0; d < s.directions; ++d) {
    for (int64_t k = 0; k < s.steps; ++k) {
      const int64_t t = s.time(d, k);
      std::copy_n(call.inputs[0].as<float>() + s.gates_at(t, d), s.batch * s.rows(), dgates + t * s.batch * s.rows());
      float* state = before + t * s.batch * s.hidden;
      if (k == 0) load_state(s, call, kFirstHidden, d, state);
      for (int64_t b = 0; k > 0 && b < s.batch; ++b) {
        std::copy_n(y + s.y_at(s.time(d, k - 1), d, b), s.hidden, state + b * s.hidden);
      }
    }
    if (call.has_output(0)) {
      multiply(s.rows(), s.inputs, rows, {dgates, s.rows(), true}, {x, s.inputs}, 0.0f,
               call.outputs[0].as<float>() + d * s.rows() * s.inputs, s.inputs);
    }
    if (call.has_output(1)) {
      multiply(s.rows(), s.hidden, rows, {dgates, s.rows(), true}, {before, s.hidden}, 0.0f,
               call.outputs[1].as<float>() + d * s.rows() * s.hidden, s.hidden);
    }
    if (!call.has_output(2)) continue;
    std::fill_n(sums, s.rows(), 0.0);
    for (int64_t row = 0; row < rows; ++row) row_add(dgates + row * s.rows(), sums, s.rows());
    float* db = call.outputs[2].as<float>() + d * 2 * s.rows();
    for (int64_t i = 0; i < s.rows(); ++i) db[i] = db[s.rows() + i] = static_cast<float>(sums[i]);
  }
}

std::string refusal(const NodeSpec& node) {
  const bool is_weight_grad = node.op == OpKind::LSTMWeightGrad;
  if (has_input(node, is_weight_grad ? 3 : static_cast<size_t>(kSequenceLens)))
    return "LSTM by sgemm: only sequences of full length";
  if (!is_weight_grad && has_input(node, kPeepholes)) return "LSTM by sgemm: no peepholes";
  if (node.op == OpKind::LSTMInputGrad && has_output(node, 3)) return "LSTM by sgemm: no gradient of peepholes";
  if (!all_of_type(node, DType::f32)) return "LSTM by sgemm: only f32";
  if (has_empty_operand(node)) return "LSTM by sgemm: an operand is empty";
  return {};
}

}  // namespace

KernelOrReason onednn_lstm(const NodeSpec& node) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  switch (node.op) {
    case OpKind::LSTM:
      return plain_kernel("cpu:onednn sgemm lstm", &lstm, node.threads);
    case OpKind::LSTMInputGrad:
      return plain_kernel("cpu:onednn sgemm lstm", &lstm_input_grad, node.threads);
    case OpKind::LSTMWeightGrad:
      return plain_kernel("cpu:onednn sgemm lstm", &lstm_weight_grad, node.threads);
    default:
      return declined("LSTM by sgemm: not an LSTM");
  }
}

}  // namespace mpc::cpu
