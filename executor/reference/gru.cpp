#include <algorithm>
#include <cmath>
#include <vector>

#include "executor/reference/recurrent.h"

namespace mpc::reference {
namespace {

enum GruInput : size_t { kDY = kInitialH + 1, kDYh };
enum GradOutput : size_t { kDX, kDInitialH, kDGates, kReset, kHidden };
enum Gate : int64_t { kUpdateGate, kResetGate, kHiddenGate, kGateCount };

/// One sequence in one direction, step by step.
struct Run {
  std::vector<double> gates;   // (length, 3, H) after their activations
  std::vector<double> from_h;  // (length, H): R h + Rb of the hidden gate, where it is taken before the reset
  std::vector<double> hidden;  // (length + 1, H): before (k) and after (k + 1) step k
};

struct Gru : RecurrentCell {
  Gru(OpKind op, const KernelCall& call)
      : RecurrentCell(op, call, kGateCount),
        is_linear_before_reset(call.attributes.integer("linear_before_reset") == 1) {}

  Run run(int64_t d, int64_t b) const {
    const int64_t size = layout.hidden;
    const int64_t length = lengths[at(b)];
    Run run{std::vector<double>(at(length * layout.rows())), std::vector<double>(at(length * size)),
            first_hidden(d, b)};
    std::vector<double> reset_h(at(size));
    for (int64_t k = 0; k < length; ++k) {
      const double* h = run.hidden.data() + k * size;
      double* next = run.hidden.data() + (k + 1) * size;
      double* update = run.gates.data() + k * layout.rows();
      double* reset = update + size;
      double* candidate = reset + size;
      double* candidate_from_h = run.from_h.data() + k * size;
      const int64_t x_begin = layout.x_at(layout.time(d, k, length), b);
      for (int64_t row = 0; row < kHiddenGate * size; ++row)
        update[row] = sigmoid(from_x(d, row, x_begin) + from_h(d, row, h));
      for (int64_t u = 0; u < size; ++u) reset_h[at(u)] = reset[u] * h[u];
      for (int64_t u = 0; u < size; ++u) {
        const int64_t row = kHiddenGate * size + u;
        candidate_from_h[u] = from_h(d, row, is_linear_before_reset ? h : reset_h.data());
        const double factor = is_linear_before_reset ? reset[u] : 1.0;
        candidate[u] = std::tanh(from_x(d, row, x_begin) + factor * candidate_from_h[u]);
        next[u] = (1 - update[u]) * candidate[u] + update[u] * h[u];
      }
    }
    return run;
  }

  bool is_linear_before_reset;
};

/// Gradients of what the recurrence reads but the weights; and the reset gates.
struct InputGrads {
  explicit InputGrads(const Gru& gru)
      : x(gru.x.size()),
        initial_h(at(gru.layout.state_elements())),
        gates(at(gru.layout.y_elements() * kGateCount)),
        reset(at(gru.layout.y_elements())) {}
  std::vector<double> x, initial_h, gates, reset;
};

/// Runs one sequence backwards. dh comes in as the gradient of its last state and leaves as that of its first.
void run_backward(const Gru& gru, const Run& run, int64_t d, int64_t b, const std::vector<double>& dy,
                  std::vector<double>& dh, InputGrads& grads) {
  const RecurrentLayout& layout = gru.layout;
  const int64_t size = layout.hidden;
  const int64_t length = gru.lengths[at(b)];
  std::vector<double> recurrent_gates(at(layout.rows()));  // gradients of R h + Rb
  std::vector<double> dreset_h(at(size));
  for (int64_t k = length - 1; k >= 0; --k) {
    const int64_t t = layout.time(d, k, length);
    const double* h = run.hidden.data() + k * size;
    const double* update = run.gates.data() + k * layout.rows();
    const double* reset = update + size;
    const double* candidate = reset + size;
    double* dupdate = grads.gates.data() + layout.gates_at(t, d, b);
    double* dreset = dupdate + size;
    double* dcandidate = dreset + size;
    std::copy_n(reset, size, grads.reset.begin() + layout.reset_at(t, d, b));
    for (int64_t u = 0; u < size; ++u) {
      if (!dy.empty()) dh[at(u)] += dy[at(layout.y_at(t, d, b) + u)];
      dupdate[u] = dh[at(u)] * (h[u] - candidate[u]) * update[u] * (1 - update[u]);
      dcandidate[u] = dh[at(u)] * (1 - update[u]) * (1 - candidate[u] * candidate[u]);
      dh[at(u)] *= update[u];
    }
    // The gradient of r h, or where the product comes before the reset, of r itself.
    std::fill(dreset_h.begin(), dreset_h.end(), 0.0);
    if (!gru.is_linear_before_reset) {
      gru.add_to_h(d, dupdate, kHiddenGate, kGateCount, dreset_h.data());
    }
    for (int64_t u = 0; u < size; ++u) {
      const double to_reset =
          gru.is_linear_before_reset ? dcandidate[u] * run.from_h[at(k * size + u)] : dreset_h[at(u)] * h[u];
      dreset[u] = to_reset * reset[u] * (1 - reset[u]);
      dh[at(u)] += dreset_h[at(u)] * reset[u];
    }
    std::copy_n(dupdate, layout.rows(), recurrent_gates.begin());
    for (int64_t u = 0; u < size; ++u) recurrent_gates[at(kHiddenGate * size + u)] *= reset[u];
    gru.add_to_h(d, recurrent_gates.data(), 0, gru.is_linear_before_reset ? kGateCount : kHiddenGate, dh.data());
    gru.add_to_x(d, dupdate, grads.x.data() + layout.x_at(t, b));
  }
}

}  // namespace

void GRU(const KernelCall& call) {
  const Gru gru(OpKind::GRU, call);
  const RecurrentLayout& layout = gru.layout;
  std::vector<double> y(at(layout.y_elements()), 0.0);
  std::vector<double> last_h(at(layout.state_elements()));
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t b = 0; b < layout.batch; ++b) {
      const Run run = gru.run(d, b);
      gru.put_hidden(run.hidden, d, b, y);
      std::copy(run.hidden.end() - layout.hidden, run.hidden.end(), last_h.begin() + layout.state_at(d, b));
    }
  }
  store_optional(call, 0, y);
  store_optional(call, 1, last_h);
}

void GRUInputGrad(const KernelCall& call) {
  const Gru gru(OpKind::GRUInputGrad, call);
  const RecurrentLayout& layout = gru.layout;
  const std::vector<double> dy = load_optional(call, kDY);
  const std::vector<double> dy_h = load_optional(call, kDYh);
  InputGrads grads(gru);
  std::vector<double> y(at(layout.y_elements()), 0.0);
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t b = 0; b < layout.batch; ++b) {
      const Run run = gru.run(d, b);
      gru.put_hidden(run.hidden, d, b, y);
      std::vector<double> dh(at(layout.hidden), 0.0);
      const int64_t state = layout.state_at(d, b);
      if (!dy_h.empty()) std::copy_n(dy_h.begin() + state, layout.hidden, dh.begin());
      run_backward(gru, run, d, b, dy, dh, grads);
      std::copy(dh.begin(), dh.end(), grads.initial_h.begin() + state);
    }
  }
  store_optional(call, kDX, grads.x);
  store_optional(call, kDInitialH, grads.initial_h);
  store_optional(call, kDGates, grads.gates);
  store_optional(call, kReset, grads.reset);
  store_optional(call, kHidden, y);
}

void GRUWeightGrad(const KernelCall& call) {
  constexpr size_t kResetGates = 3;
  constexpr size_t kLengths = 4;
  const ResetGates reset{load_numbers(call.inputs[kResetGates]), call.attributes.integer("linear_before_reset") == 1};
  recurrent_weight_grad(OpKind::GRUWeightGrad, call, kGateCount, kLengths, &reset);
}

}  // namespace mpc::reference
