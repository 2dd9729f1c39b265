#include <algorithm>
#include <cmath>
#include <vector>

#include "executor/reference/recurrent.h"

namespace mpc::reference {
namespace {

enum LstmInput : size_t { kInitialC = kInitialH + 1, kP, kDY, kDYh, kDYc };
enum GradOutput : size_t { kDX, kDInitialH, kDInitialC, kDP, kDGates, kHidden };
enum Gate : int64_t { kInputGate, kOutputGate, kForgetGate, kCellGate, kGateCount };
enum Peephole : int64_t { kPeepInput, kPeepOutput, kPeepForget, kPeepCount };

/// One sequence in one direction, step by step: gates after their activations, and states before (k) and after (k + 1)
/// step k.
struct Run {
  std::vector<double> gates;   // (length, 4, H)
  std::vector<double> cells;   // (length + 1, H)
  std::vector<double> hidden;  // (length + 1, H)
};

struct Lstm : RecurrentCell {
  Lstm(OpKind op, const KernelCall& call)
      : RecurrentCell(op, call, kGateCount),
        initial_c(load_optional(call, kInitialC)),
        peepholes(load_optional(call, kP)) {}

  double peephole(int64_t d, Peephole which, int64_t unit) const {
    return peepholes.empty() ? 0.0 : peepholes[at((d * kPeepCount + which) * layout.hidden + unit)];
  }

  Run run(int64_t d, int64_t b) const {
    const int64_t size = layout.hidden;
    const int64_t length = lengths[at(b)];
    Run run{std::vector<double>(at(length * layout.rows())), std::vector<double>(at((length + 1) * size)),
            first_hidden(d, b)};
    if (!initial_c.empty()) std::copy_n(initial_c.begin() + layout.state_at(d, b), size, run.cells.begin());
    for (int64_t k = 0; k < length; ++k) {
      const double* h = run.hidden.data() + k * size;
      const double* c = run.cells.data() + k * size;
      double* gates = run.gates.data() + k * layout.rows();
      const int64_t x_begin = layout.x_at(layout.time(d, k, length), b);
      for (int64_t row = 0; row < layout.rows(); ++row) gates[row] = from_x(d, row, x_begin) + from_h(d, row, h);
      for (int64_t u = 0; u < size; ++u) {
        double& input = gates[kInputGate * size + u];
        double& output = gates[kOutputGate * size + u];
        double& forget = gates[kForgetGate * size + u];
        double& cell = gates[kCellGate * size + u];
        input = sigmoid(input + peephole(d, kPeepInput, u) * c[u]);
        forget = sigmoid(forget + peephole(d, kPeepForget, u) * c[u]);
        cell = std::tanh(cell);
        const double next = forget * c[u] + input * cell;
        output = sigmoid(output + peephole(d, kPeepOutput, u) * next);
        run.cells[at((k + 1) * size + u)] = next;
        run.hidden[at((k + 1) * size + u)] = output * std::tanh(next);
      }
    }
    return run;
  }

  std::vector<double> initial_c, peepholes;
};

/// Gradients of everything the recurrence reads but the weights.
struct InputGrads {
  explicit InputGrads(const Lstm& lstm)
      : x(lstm.x.size()),
        initial_h(at(lstm.layout.state_elements())),
        initial_c(at(lstm.layout.state_elements())),
        peepholes(at(lstm.layout.directions * kPeepCount * lstm.layout.hidden)),
        gates(at(lstm.layout.y_elements() * kGateCount)) {}
  std::vector<double> x, initial_h, initial_c, peepholes, gates;
};

/// Gradients of the four gates of one unit before their activations, and of its cell before the step.
struct UnitGrads {
  double gates[kGateCount];
  double cell;
};

/// dh, dc: gradients of the hidden state and the cell after the step.
UnitGrads unit_backward(const Lstm& lstm, int64_t d, int64_t u, const double* gates, double cell_before,
                        double cell_after, double dh, double dc) {
  const int64_t size = lstm.layout.hidden;
  const double i = gates[kInputGate * size + u];
  const double o = gates[kOutputGate * size + u];
  const double f = gates[kForgetGate * size + u];
  const double g = gates[kCellGate * size + u];
  const double tanh_cell = std::tanh(cell_after);
  UnitGrads grads{};
  grads.gates[kOutputGate] = dh * tanh_cell * o * (1 - o);
  const double total =
      dc + dh * o * (1 - tanh_cell * tanh_cell) + grads.gates[kOutputGate] * lstm.peephole(d, kPeepOutput, u);
  grads.gates[kInputGate] = total * g * i * (1 - i);
  grads.gates[kForgetGate] = total * cell_before * f * (1 - f);
  grads.gates[kCellGate] = total * i * (1 - g * g);
  grads.cell = total * f + grads.gates[kInputGate] * lstm.peephole(d, kPeepInput, u) +
               grads.gates[kForgetGate] * lstm.peephole(d, kPeepForget, u);
  return grads;
}

/// Runs one sequence backwards. dh and dc come in as the gradients of its last states and leave as those of its first.
void run_backward(const Lstm& lstm, const Run& run, int64_t d, int64_t b, const std::vector<double>& dy,
                  std::vector<double>& dh, std::vector<double>& dc, InputGrads& grads) {
  const RecurrentLayout& layout = lstm.layout;
  const int64_t size = layout.hidden;
  const int64_t rows = kGateCount * size;
  const int64_t length = lstm.lengths[at(b)];
  for (int64_t k = length - 1; k >= 0; --k) {
    const int64_t t = layout.time(d, k, length);
    double* dgates = grads.gates.data() + layout.gates_at(t, d, b);
    const double* before = run.cells.data() + k * size;
    const double* after = before + size;
    double* dp = grads.peepholes.data() + d * kPeepCount * size;
    for (int64_t u = 0; u < size; ++u) {
      if (!dy.empty()) dh[at(u)] += dy[at(layout.y_at(t, d, b) + u)];
      const UnitGrads unit =
          unit_backward(lstm, d, u, run.gates.data() + k * rows, before[u], after[u], dh[at(u)], dc[at(u)]);
      for (int64_t gate = 0; gate < kGateCount; ++gate) dgates[gate * size + u] = unit.gates[gate];
      dc[at(u)] = unit.cell;
      dp[kPeepInput * size + u] += unit.gates[kInputGate] * before[u];
      dp[kPeepOutput * size + u] += unit.gates[kOutputGate] * after[u];
      dp[kPeepForget * size + u] += unit.gates[kForgetGate] * before[u];
    }
    std::fill(dh.begin(), dh.end(), 0.0);
    lstm.add_to_h(d, dgates, 0, kGateCount, dh.data());
    lstm.add_to_x(d, dgates, grads.x.data() + layout.x_at(t, b));
  }
}

}  // namespace

void LSTM(const KernelCall& call) {
  const Lstm lstm(OpKind::LSTM, call);
  const RecurrentLayout& layout = lstm.layout;
  std::vector<double> y(at(lstm.layout.y_elements()), 0.0);
  std::vector<double> last_h(at(lstm.layout.state_elements()));
  std::vector<double> last_c(last_h.size());
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t b = 0; b < layout.batch; ++b) {
      const Run run = lstm.run(d, b);
      lstm.put_hidden(run.hidden, d, b, y);
      const int64_t state = layout.state_at(d, b);
      std::copy(run.hidden.end() - layout.hidden, run.hidden.end(), last_h.begin() + state);
      std::copy(run.cells.end() - layout.hidden, run.cells.end(), last_c.begin() + state);
    }
  }
  store_optional(call, 0, y);
  store_optional(call, 1, last_h);
  store_optional(call, 2, last_c);
}

void LSTMInputGrad(const KernelCall& call) {
  const Lstm lstm(OpKind::LSTMInputGrad, call);
  const RecurrentLayout& layout = lstm.layout;
  const std::vector<double> dy = load_optional(call, kDY);
  const std::vector<double> dy_h = load_optional(call, kDYh);
  const std::vector<double> dy_c = load_optional(call, kDYc);
  InputGrads grads(lstm);
  std::vector<double> y(at(lstm.layout.y_elements()), 0.0);
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t b = 0; b < layout.batch; ++b) {
      const Run run = lstm.run(d, b);
      lstm.put_hidden(run.hidden, d, b, y);
      std::vector<double> dh(at(layout.hidden), 0.0);
      std::vector<double> dc(at(layout.hidden), 0.0);
      const int64_t state = layout.state_at(d, b);
      if (!dy_h.empty()) std::copy_n(dy_h.begin() + state, layout.hidden, dh.begin());
      if (!dy_c.empty()) std::copy_n(dy_c.begin() + state, layout.hidden, dc.begin());
      run_backward(lstm, run, d, b, dy, dh, dc, grads);
      std::copy(dh.begin(), dh.end(), grads.initial_h.begin() + state);
      std::copy(dc.begin(), dc.end(), grads.initial_c.begin() + state);
    }
  }
  store_optional(call, kDX, grads.x);
  store_optional(call, kDInitialH, grads.initial_h);
  store_optional(call, kDInitialC, grads.initial_c);
  store_optional(call, kDP, grads.peepholes);
  store_optional(call, kDGates, grads.gates);
  store_optional(call, kHidden, y);
}

void LSTMWeightGrad(const KernelCall& call) {
  constexpr size_t kLengths = 3;
  recurrent_weight_grad(OpKind::LSTMWeightGrad, call, kGateCount, kLengths, nullptr);
}

}  // namespace mpc::reference
