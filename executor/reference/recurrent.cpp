#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "executor/reference/support.h"

// LSTM. The sequences of a batch, and the two directions, do not depend on each other: each is run from its first to
// its last step, and in the gradient back again.

namespace mpc::reference {
namespace {

enum Input : size_t { kX, kW, kR, kBias, kSequenceLens, kInitialH, kInitialC, kP, kDY, kDYh, kDYc };
enum GradOutput : size_t { kDX, kDInitialH, kDInitialC, kDP, kDGates, kHidden };
enum Gate : int64_t { kInputGate, kOutputGate, kForgetGate, kCellGate, kGateCount };
enum Peephole : int64_t { kPeepInput, kPeepOutput, kPeepForget, kPeepCount };

size_t at(int64_t position) {
  return static_cast<size_t>(position);
}
double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}
std::vector<double> load_optional(const KernelCall& call, size_t i) {
  return call.has_input(i) ? load_numbers(call.inputs[i]) : std::vector<double>();
}

/// Sizes and the places of things, in either layout.
struct Layout {
  Layout(const Attributes& attributes, const Shape& x)
      : is_batch_first(attributes.integer("layout") == 1),
        steps(x[is_batch_first ? 1 : 0]),
        batch(x[is_batch_first ? 0 : 1]),
        inputs(x[2]),
        hidden(attributes.integer("hidden_size")),
        directions(attributes.text("direction") == "bidirectional" ? 2 : 1),
        is_first_reverse(attributes.text("direction") == "reverse") {}

  bool is_batch_first;
  int64_t steps, batch, inputs, hidden, directions;
  bool is_first_reverse;

  bool is_reverse(int64_t d) const { return is_first_reverse || d == 1; }
  int64_t x_at(int64_t t, int64_t b) const { return (is_batch_first ? b * steps + t : t * batch + b) * inputs; }
  int64_t y_at(int64_t t, int64_t d, int64_t b) const {
    return (is_batch_first ? (b * steps + t) * directions + d : (t * directions + d) * batch + b) * hidden;
  }
  int64_t state_at(int64_t d, int64_t b) const {
    return (is_batch_first ? b * directions + d : d * batch + b) * hidden;
  }
  int64_t gates_at(int64_t t, int64_t d, int64_t b) const {
    return ((t * directions + d) * batch + b) * kGateCount * hidden;
  }
  /// The time of the k-th step that a sequence of `length` steps takes.
  int64_t time(int64_t d, int64_t k, int64_t length) const { return is_reverse(d) ? length - 1 - k : k; }
};

/// How many steps each sequence of the batch has.
std::vector<int64_t> sequence_lengths(OpKind op, const KernelCall& call, size_t operand, const Layout& layout) {
  if (!call.has_input(operand)) return std::vector<int64_t>(at(layout.batch), layout.steps);
  std::vector<int64_t> lengths = load_integers(call.inputs[operand]);
  for (const int64_t length : lengths) {
    if (length < 0 || length > layout.steps) {
      fail(op,
           "a sequence length is " + std::to_string(length) + ", there are " + std::to_string(layout.steps) + " steps");
    }
  }
  return lengths;
}

/// One sequence in one direction, step by step: gates after their activations, and states before (k) and after (k + 1)
/// step k.
struct Run {
  std::vector<double> gates;   // (length, 4, H)
  std::vector<double> cells;   // (length + 1, H)
  std::vector<double> hidden;  // (length + 1, H)
};

struct Lstm {
  Lstm(OpKind op, const KernelCall& call)
      : layout(call.attributes, call.inputs[kX].shape),
        lengths(sequence_lengths(op, call, kSequenceLens, layout)),
        x(load_numbers(call.inputs[kX])),
        w(load_numbers(call.inputs[kW])),
        r(load_numbers(call.inputs[kR])),
        bias(load_optional(call, kBias)),
        initial_h(load_optional(call, kInitialH)),
        initial_c(load_optional(call, kInitialC)),
        peepholes(load_optional(call, kP)) {}

  double peephole(int64_t d, Peephole which, int64_t unit) const {
    return peepholes.empty() ? 0.0 : peepholes[at((d * kPeepCount + which) * layout.hidden + unit)];
  }

  /// x W + h R + biases of one gate of one unit.
  double pre_activation(int64_t d, int64_t row, int64_t x_begin, const double* h) const {
    const int64_t rows = kGateCount * layout.hidden;
    double sum = bias.empty() ? 0.0 : bias[at(d * 2 * rows + row)] + bias[at((d * 2 + 1) * rows + row)];
    const double* w_row = w.data() + (d * rows + row) * layout.inputs;
    const double* r_row = r.data() + (d * rows + row) * layout.hidden;
    for (int64_t i = 0; i < layout.inputs; ++i) sum += w_row[i] * x[at(x_begin + i)];
    for (int64_t i = 0; i < layout.hidden; ++i) sum += r_row[i] * h[i];
    return sum;
  }

  Run run(int64_t d, int64_t b) const {
    const int64_t size = layout.hidden;
    const int64_t length = lengths[at(b)];
    Run run{std::vector<double>(at(length * kGateCount * size)), std::vector<double>(at((length + 1) * size)),
            std::vector<double>(at((length + 1) * size))};
    for (int64_t u = 0; u < size; ++u) {
      if (!initial_h.empty()) run.hidden[at(u)] = initial_h[at(layout.state_at(d, b) + u)];
      if (!initial_c.empty()) run.cells[at(u)] = initial_c[at(layout.state_at(d, b) + u)];
    }
    for (int64_t k = 0; k < length; ++k) {
      const double* h = run.hidden.data() + k * size;
      const double* c = run.cells.data() + k * size;
      double* gates = run.gates.data() + k * kGateCount * size;
      const int64_t x_begin = layout.x_at(layout.time(d, k, length), b);
      for (int64_t row = 0; row < kGateCount * size; ++row) gates[row] = pre_activation(d, row, x_begin, h);
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

  /// The hidden states of a run, at their times; steps beyond the sequence are left as they are.
  void put_hidden(const Run& run, int64_t d, int64_t b, std::vector<double>& y) const {
    const int64_t length = lengths[at(b)];
    for (int64_t k = 0; k < length; ++k) {
      const int64_t begin = layout.y_at(layout.time(d, k, length), d, b);
      for (int64_t u = 0; u < layout.hidden; ++u) y[at(begin + u)] = run.hidden[at((k + 1) * layout.hidden + u)];
    }
  }

  int64_t y_elements() const { return layout.steps * layout.directions * layout.batch * layout.hidden; }
  int64_t state_elements() const { return layout.directions * layout.batch * layout.hidden; }

  Layout layout;
  std::vector<int64_t> lengths;
  std::vector<double> x, w, r, bias, initial_h, initial_c, peepholes;
};

/// Gradients of everything the recurrence reads but the weights.
struct InputGrads {
  explicit InputGrads(const Lstm& lstm)
      : x(lstm.x.size()),
        initial_h(at(lstm.state_elements())),
        initial_c(at(lstm.state_elements())),
        peepholes(at(lstm.layout.directions * kPeepCount * lstm.layout.hidden)),
        gates(at(lstm.y_elements() * kGateCount)) {}
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
  const Layout& layout = lstm.layout;
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
    double* dx = grads.x.data() + layout.x_at(t, b);
    for (int64_t row = 0; row < rows; ++row) {
      const double* w_row = lstm.w.data() + (d * rows + row) * layout.inputs;
      const double* r_row = lstm.r.data() + (d * rows + row) * size;
      for (int64_t i = 0; i < layout.inputs; ++i) dx[i] += dgates[row] * w_row[i];
      for (int64_t u = 0; u < size; ++u) dh[at(u)] += dgates[row] * r_row[u];
    }
  }
}

void store_optional(const KernelCall& call, size_t output, const std::vector<double>& values) {
  if (call.has_output(output)) store_all(call.outputs[output], values);
}

}  // namespace

void LSTM(const KernelCall& call) {
  const Lstm lstm(OpKind::LSTM, call);
  const Layout& layout = lstm.layout;
  std::vector<double> y(at(lstm.y_elements()), 0.0);
  std::vector<double> last_h(at(lstm.state_elements()));
  std::vector<double> last_c(last_h.size());
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t b = 0; b < layout.batch; ++b) {
      const Run run = lstm.run(d, b);
      lstm.put_hidden(run, d, b, y);
      const int64_t end = lstm.lengths[at(b)] * layout.hidden;
      for (int64_t u = 0; u < layout.hidden; ++u) {
        last_h[at(layout.state_at(d, b) + u)] = run.hidden[at(end + u)];
        last_c[at(layout.state_at(d, b) + u)] = run.cells[at(end + u)];
      }
    }
  }
  store_optional(call, 0, y);
  store_optional(call, 1, last_h);
  store_optional(call, 2, last_c);
}

void LSTMInputGrad(const KernelCall& call) {
  const Lstm lstm(OpKind::LSTMInputGrad, call);
  const Layout& layout = lstm.layout;
  const std::vector<double> dy = load_optional(call, kDY);
  const std::vector<double> dy_h = load_optional(call, kDYh);
  const std::vector<double> dy_c = load_optional(call, kDYc);
  InputGrads grads(lstm);
  std::vector<double> y(at(lstm.y_elements()), 0.0);
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t b = 0; b < layout.batch; ++b) {
      const Run run = lstm.run(d, b);
      lstm.put_hidden(run, d, b, y);
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
  const Layout layout(call.attributes, call.inputs[1].shape);
  const std::vector<int64_t> lengths = sequence_lengths(OpKind::LSTMWeightGrad, call, 3, layout);
  const std::vector<double> dgates = load_numbers(call.inputs[0]);
  const std::vector<double> x = load_numbers(call.inputs[1]);
  const std::vector<double> y = load_numbers(call.inputs[2]);
  const std::vector<double> initial_h = load_optional(call, 4);
  const std::vector<double> zeros(at(layout.hidden), 0.0);
  const int64_t rows = kGateCount * layout.hidden;
  std::vector<double> dw(at(layout.directions * rows * layout.inputs), 0.0);
  std::vector<double> dr(at(layout.directions * rows * layout.hidden), 0.0);
  std::vector<double> db(at(layout.directions * 2 * rows), 0.0);
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t b = 0; b < layout.batch; ++b) {
      const double* h = initial_h.empty() ? zeros.data() : initial_h.data() + layout.state_at(d, b);
      for (int64_t k = 0; k < lengths[at(b)]; ++k) {
        const int64_t t = layout.time(d, k, lengths[at(b)]);
        for (int64_t row = 0; row < rows; ++row) {
          const double gate = dgates[at(layout.gates_at(t, d, b) + row)];
          for (int64_t i = 0; i < layout.inputs; ++i)
            dw[at((d * rows + row) * layout.inputs + i)] += gate * x[at(layout.x_at(t, b) + i)];
          for (int64_t u = 0; u < layout.hidden; ++u) dr[at((d * rows + row) * layout.hidden + u)] += gate * h[u];
          db[at(d * 2 * rows + row)] += gate;
          db[at((d * 2 + 1) * rows + row)] += gate;
        }
        h = y.data() + layout.y_at(t, d, b);
      }
    }
  }
  store_optional(call, 0, dw);
  store_optional(call, 1, dr);
  store_optional(call, 2, db);
}

}  // namespace mpc::reference
