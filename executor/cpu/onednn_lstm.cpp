// LSTM and its gradients in f32, without peepholes: see onednn_recurrent.h.

#include <algorithm>

#include "executor/cpu/factories.h"
#include "executor/cpu/onednn_recurrent.h"
#include "executor/cpu/row_math.h"
#include "executor/cpu/vector_math.h"

namespace mpc::cpu {
namespace {

enum LstmInput : size_t { kInitialC = kInitialH + 1, kPeepholes, kDY, kDYh, kDYc };
constexpr int64_t kGateCount = 4;
constexpr size_t kWeightGradSequenceLens = 3;

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

void run_forward(const RecurrentSizes& s, const KernelCall& call, const float* x, int64_t d, const Forward& f) {
  const float* r = call.inputs[kR].as<float>() + d * s.rows() * s.hidden;
  gates_from_x(s, call, x, d, s.rows(), f.gates);
  load_state(s, call, kInitialH, d, f.states);
  load_state(s, call, kInitialC, d, f.cells);
  const int64_t state = s.state_count();
  for (int64_t k = 0; k < s.steps; ++k) {
    float* gates = f.gates + s.time(d, k) * s.batch * s.rows();
    multiply(s.batch, s.rows(), s.hidden, {f.states + k * state, s.hidden}, {r, s.hidden, true}, 1.0f, gates, s.rows());
    for (int64_t b = 0; b < s.batch; ++b) {
      const int64_t at = k * state + b * s.hidden;
      step_forward(gates + b * s.rows(), f.cells + at, f.cells + at + state, f.states + at + state, s.hidden);
    }
  }
}

void lstm(const KernelCall& call, int) {
  const RecurrentSizes s(call.attributes, call.inputs[kX].shape, kGateCount);
  const int64_t state = s.state_count();
  const int64_t gate_count = s.gates_count();
  const int64_t states_count = (s.steps + 1) * state;
  ScratchParts parts({s.x_count(), gate_count, states_count, states_count});
  const float* x = time_major(s, call.inputs[kX].as<float>(), parts.take(s.x_count()));
  const Forward f{parts.take(gate_count), parts.take(states_count), parts.take(states_count)};
  for (int64_t d = 0; d < s.directions; ++d) {
    run_forward(s, call, x, d, f);
    store_sequence(s, call, 0, d, f.states);
    store_state(s, call, 1, d, f.states + s.steps * state);
    store_state(s, call, 2, d, f.cells + s.steps * state);
  }
}

/// Runs one direction backwards; dgates (T, B, 4H) by time. dh and dc leave as the gradients of the initial states.
void run_backward(const RecurrentSizes& s, const KernelCall& call, int64_t d, const Forward& f, float* dh, float* dc,
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
  const RecurrentSizes s(call.attributes, call.inputs[kX].shape, kGateCount);
  const int64_t state = s.state_count();
  const int64_t x_count = s.x_count();
  const int64_t gate_count = s.gates_count();
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
  if (call.has_output(0)) store_x(s, dx, call.outputs[0].as<float>());
}

void lstm_weight_grad(const KernelCall& call, int) {
  recurrent_weight_grad(call, kGateCount, kWeightGradSequenceLens + 1, Reset::none);
}

std::string refusal(const NodeSpec& node) {
  const bool is_weight_grad = node.op == OpKind::LSTMWeightGrad;
  if (!is_weight_grad && has_input(node, kPeepholes)) return "LSTM by sgemm: no peepholes";
  if (node.op == OpKind::LSTMInputGrad && has_output(node, 3)) return "LSTM by sgemm: no gradient of peepholes";
  return recurrent_refusal(node, "LSTM by sgemm", is_weight_grad ? kWeightGradSequenceLens : size_t{kSequenceLens});
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
