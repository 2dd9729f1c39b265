// GRU and its gradients in f32: see onednn_recurrent.h. The hidden gate sees r h, or with linear_before_reset r times
// the product with h: then its part of the products is kept beside the gates.

#include <algorithm>

#include "executor/cpu/factories.h"
#include "executor/cpu/onednn_recurrent.h"
#include "executor/cpu/row_math.h"
#include "executor/cpu/vector_math.h"

namespace mpc::cpu {
namespace {

enum GruInput : size_t { kDY = kInitialH + 1, kDYh };
constexpr int64_t kGateCount = 3;
constexpr size_t kWeightGradSequenceLens = 4;

bool is_linear_before_reset(const KernelCall& call) {
  return call.attributes.integer("linear_before_reset") == 1;
}

// Of one sequence: gates (3, H) before their activations, and h (H). reset_h (H) may be null.
MPC_CLONES void open_gates(float* gates, const float* h, float* reset_h, int64_t hidden) {
  float* update = gates;
  float* reset = gates + hidden;
#pragma GCC ivdep
  for (int64_t u = 0; u < hidden; ++u) {
    update[u] = fast_sigmoid(update[u]);
    reset[u] = fast_sigmoid(reset[u]);
  }
  if (reset_h == nullptr) return;
#pragma GCC ivdep
  for (int64_t u = 0; u < hidden; ++u) reset_h[u] = reset[u] * h[u];
}

// from_h (H): the product with h that is still to be reset, or null where the gates have all.
MPC_CLONES void next_state(float* gates, const float* from_h, const float* h, float* next_h, int64_t hidden) {
  const float* update = gates;
  const float* reset = gates + hidden;
  float* candidate = gates + 2 * hidden;
  if (from_h != nullptr) {
#pragma GCC ivdep
    for (int64_t u = 0; u < hidden; ++u) candidate[u] += reset[u] * from_h[u];
  }
#pragma GCC ivdep
  for (int64_t u = 0; u < hidden; ++u) {
    candidate[u] = fast_tanh(candidate[u]);
    next_h[u] = (1.0f - update[u]) * candidate[u] + update[u] * h[u];
  }
}

// dh comes in as the gradient of the state after the step and leaves as what reaches that before it past the gates.
MPC_CLONES void update_backward(const float* gates, const float* h, float* dh, float* dgates, int64_t hidden) {
  const float* update = gates;
  const float* candidate = gates + 2 * hidden;
#pragma GCC ivdep
  for (int64_t u = 0; u < hidden; ++u) {
    dgates[u] = dh[u] * (h[u] - candidate[u]) * update[u] * (1.0f - update[u]);
    dgates[2 * hidden + u] = dh[u] * (1.0f - update[u]) * (1.0f - candidate[u] * candidate[u]);
    dh[u] *= update[u];
  }
}

// The product came before the reset: its own gradient goes to dfrom_h (H).
MPC_CLONES void reset_after_backward(const float* gates, const float* from_h, float* dgates, float* dfrom_h,
                                     int64_t hidden) {
  const float* reset = gates + hidden;
#pragma GCC ivdep
  for (int64_t u = 0; u < hidden; ++u) {
    const float dcandidate = dgates[2 * hidden + u];
    dgates[hidden + u] = dcandidate * from_h[u] * reset[u] * (1.0f - reset[u]);
    dfrom_h[u] = dcandidate * reset[u];
  }
}

// The reset came before the product, through which dreset_h (H) was found.
MPC_CLONES void reset_before_backward(const float* gates, const float* h, const float* dreset_h, float* dh,
                                      float* dgates, int64_t hidden) {
  const float* reset = gates + hidden;
#pragma GCC ivdep
  for (int64_t u = 0; u < hidden; ++u) {
    dgates[hidden + u] = dreset_h[u] * h[u] * reset[u] * (1.0f - reset[u]);
    dh[u] += dreset_h[u] * reset[u];
  }
}

/// One direction, run forward. gates: (T, B, 3H) by time; states: (T + 1, B, H) by step, before step k at k.
/// from_h (T, B, H) by step: with linear_before_reset what the hidden gate has from h, else scratch.
struct Forward {
  float* gates;
  float* states;
  float* from_h;
};

void run_forward(const RecurrentSizes& s, const KernelCall& call, const float* x, int64_t d, const Forward& f) {
  const bool is_linear_before = is_linear_before_reset(call);
  const float* r = call.inputs[kR].as<float>() + d * s.rows() * s.hidden;
  const float* r_hidden = r + 2 * s.hidden * s.hidden;
  const float* bias = recurrent_bias(s, call, d);
  const int64_t bias_rows = is_linear_before ? 2 * s.hidden : s.rows();  // the others are under the reset
  gates_from_x(s, call, x, d, bias_rows, f.gates);
  load_state(s, call, kInitialH, d, f.states);
  for (int64_t k = 0; k < s.steps; ++k) {
    float* gates = f.gates + s.time(d, k) * s.batch * s.rows();
    float* states = f.states + k * s.state_count();
    float* from_h = f.from_h + k * s.state_count();
    const auto row = [&](float* of, int64_t b) { return of + b * s.hidden; };
    multiply(s.batch, 2 * s.hidden, s.hidden, {states, s.hidden}, {r, s.hidden, true}, 1.0f, gates, s.rows());
    for (int64_t b = 0; b < s.batch; ++b)
      open_gates(gates + b * s.rows(), row(states, b), is_linear_before ? nullptr : row(from_h, b), s.hidden);
    if (is_linear_before) {
      multiply(s.batch, s.hidden, s.hidden, {states, s.hidden}, {r_hidden, s.hidden, true}, 0.0f, from_h, s.hidden);
      for (int64_t b = 0; bias != nullptr && b < s.batch; ++b) row_add(bias + bias_rows, row(from_h, b), s.hidden);
    } else {
      multiply(s.batch, s.hidden, s.hidden, {from_h, s.hidden}, {r_hidden, s.hidden, true}, 1.0f, gates + 2 * s.hidden,
               s.rows());
    }
    for (int64_t b = 0; b < s.batch; ++b) {
      next_state(gates + b * s.rows(), is_linear_before ? row(from_h, b) : nullptr, row(states, b),
                 row(states + s.state_count(), b), s.hidden);
    }
  }
}

void gru(const KernelCall& call, int) {
  const RecurrentSizes s(call.attributes, call.inputs[kX].shape, kGateCount);
  const int64_t states_count = (s.steps + 1) * s.state_count();
  ScratchParts parts({s.x_count(), s.gates_count(), states_count, s.steps * s.state_count()});
  const float* x = time_major(s, call.inputs[kX].as<float>(), parts.take(s.x_count()));
  const Forward f{parts.take(s.gates_count()), parts.take(states_count), parts.take(s.steps * s.state_count())};
  for (int64_t d = 0; d < s.directions; ++d) {
    run_forward(s, call, x, d, f);
    store_sequence(s, call, 0, d, f.states);
    store_state(s, call, 1, d, f.states + s.steps * s.state_count());
  }
}

/// Runs one direction backwards; dgates (T, B, 3H) by time. dh (B, H) leaves as the gradient of the initial state;
/// beside (B, H) is scratch: the gradient of r h, or of the product with h before its reset.
void run_backward(const RecurrentSizes& s, const KernelCall& call, int64_t d, const Forward& f, float* dh,
                  float* beside, float* dgates) {
  const bool is_linear_before = is_linear_before_reset(call);
  const float* r = call.inputs[kR].as<float>() + d * s.rows() * s.hidden;
  const float* r_hidden = r + 2 * s.hidden * s.hidden;
  const float* dy = call.has_input(kDY) ? call.inputs[kDY].as<float>() : nullptr;
  load_state(s, call, kDYh, d, dh);
  for (int64_t k = s.steps - 1; k >= 0; --k) {
    const int64_t t = s.time(d, k);
    const float* gates = f.gates + t * s.batch * s.rows();
    const float* states = f.states + k * s.state_count();
    const float* from_h = f.from_h + k * s.state_count();
    float* step_gates = dgates + t * s.batch * s.rows();
    for (int64_t b = 0; b < s.batch; ++b) {
      if (dy != nullptr) row_add(dy + s.y_at(t, d, b), dh + b * s.hidden, s.hidden);
      update_backward(gates + b * s.rows(), states + b * s.hidden, dh + b * s.hidden, step_gates + b * s.rows(),
                      s.hidden);
    }
    if (is_linear_before) {
      for (int64_t b = 0; b < s.batch; ++b) {
        reset_after_backward(gates + b * s.rows(), from_h + b * s.hidden, step_gates + b * s.rows(),
                             beside + b * s.hidden, s.hidden);
      }
      multiply(s.batch, s.hidden, s.hidden, {beside, s.hidden}, {r_hidden, s.hidden}, 1.0f, dh, s.hidden);
    } else {
      multiply(s.batch, s.hidden, s.hidden, {step_gates + 2 * s.hidden, s.rows()}, {r_hidden, s.hidden}, 0.0f, beside,
               s.hidden);
      for (int64_t b = 0; b < s.batch; ++b) {
        reset_before_backward(gates + b * s.rows(), states + b * s.hidden, beside + b * s.hidden, dh + b * s.hidden,
                              step_gates + b * s.rows(), s.hidden);
      }
    }
    multiply(s.batch, s.hidden, 2 * s.hidden, {step_gates, s.rows()}, {r, s.hidden}, 1.0f, dh, s.hidden);
  }
}

/// The reset gates (T, D, B, H), from those of one direction.
void store_reset(const RecurrentSizes& s, const KernelCall& call, size_t output, int64_t d, const float* gates) {
  if (!call.has_output(output)) return;
  float* to = call.outputs[output].as<float>();
  for (int64_t t = 0; t < s.steps; ++t) {
    for (int64_t b = 0; b < s.batch; ++b) {
      std::copy_n(gates + (t * s.batch + b) * s.rows() + s.hidden, s.hidden, to + s.reset_at(t, d) + b * s.hidden);
    }
  }
}

// Outputs: dX, d initial_h, dgates, reset gates, hidden states.
void gru_input_grad(const KernelCall& call, int) {
  const RecurrentSizes s(call.attributes, call.inputs[kX].shape, kGateCount);
  const int64_t states_count = (s.steps + 1) * s.state_count();
  ScratchParts parts({s.x_count(), s.x_count(), s.gates_count(), s.gates_count(), states_count,
                      s.steps * s.state_count(), s.state_count(), s.state_count()});
  const float* x = time_major(s, call.inputs[kX].as<float>(), parts.take(s.x_count()));
  float* dx = parts.take(s.x_count());
  float* dgates = parts.take(s.gates_count());
  const Forward f{parts.take(s.gates_count()), parts.take(states_count), parts.take(s.steps * s.state_count())};
  float* dh = parts.take(s.state_count());
  float* beside = parts.take(s.state_count());
  for (int64_t d = 0; d < s.directions; ++d) {
    run_forward(s, call, x, d, f);
    run_backward(s, call, d, f, dh, beside, dgates);
    const float* w = call.inputs[kW].as<float>() + d * s.rows() * s.inputs;
    multiply(s.steps * s.batch, s.inputs, s.rows(), {dgates, s.rows()}, {w, s.inputs}, d == 0 ? 0.0f : 1.0f, dx,
             s.inputs);
    store_state(s, call, 1, d, dh);
    for (int64_t t = 0; call.has_output(2) && t < s.steps; ++t) {
      std::copy_n(dgates + t * s.batch * s.rows(), s.batch * s.rows(), call.outputs[2].as<float>() + s.gates_at(t, d));
    }
    store_reset(s, call, 3, d, f.gates);
    store_sequence(s, call, 4, d, f.states);
  }
  if (call.has_output(0)) store_x(s, dx, call.outputs[0].as<float>());
}

void gru_weight_grad(const KernelCall& call, int) {
  recurrent_weight_grad(call, kGateCount, kWeightGradSequenceLens + 1,
                        is_linear_before_reset(call) ? Reset::after_product : Reset::before_product);
}

}  // namespace

KernelOrReason onednn_gru(const NodeSpec& node) {
  const size_t sequence_lens = node.op == OpKind::GRUWeightGrad ? kWeightGradSequenceLens : size_t{kSequenceLens};
  if (std::string reason = recurrent_refusal(node, "GRU by sgemm", sequence_lens); !reason.empty())
    return declined(reason);
  switch (node.op) {
    case OpKind::GRU:
      return plain_kernel("cpu:onednn sgemm gru", &gru, node.threads);
    case OpKind::GRUInputGrad:
      return plain_kernel("cpu:onednn sgemm gru", &gru_input_grad, node.threads);
    case OpKind::GRUWeightGrad:
      return plain_kernel("cpu:onednn sgemm gru", &gru_weight_grad, node.threads);
    default:
      return declined("GRU by sgemm: not a GRU");
  }
}

}  // namespace mpc::cpu
