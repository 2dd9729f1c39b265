#include "executor/reference/recurrent.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace mpc::reference {
namespace {

/// How many steps each sequence of the batch has.
std::vector<int64_t> sequence_lengths(OpKind op, const KernelCall& call, size_t operand,
                                      const RecurrentLayout& layout) {
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

}  // namespace

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

std::vector<double> load_optional(const KernelCall& call, size_t input) {
  return call.has_input(input) ? load_numbers(call.inputs[input]) : std::vector<double>();
}

void store_optional(const KernelCall& call, size_t output, const std::vector<double>& values) {
  if (call.has_output(output)) store_all(call.outputs[output], values);
}

RecurrentLayout::RecurrentLayout(const Attributes& attributes, const Shape& x, int64_t gates)
    : is_batch_first(attributes.integer("layout") == 1),
      steps(x[is_batch_first ? 1 : 0]),
      batch(x[is_batch_first ? 0 : 1]),
      inputs(x[2]),
      hidden(attributes.integer("hidden_size")),
      directions(attributes.text("direction") == "bidirectional" ? 2 : 1),
      gate_count(gates),
      is_first_reverse(attributes.text("direction") == "reverse") {}

RecurrentCell::RecurrentCell(OpKind op, const KernelCall& call, int64_t gate_count)
    : layout(call.attributes, call.inputs[kX].shape, gate_count),
      lengths(sequence_lengths(op, call, kSequenceLens, layout)),
      x(load_numbers(call.inputs[kX])),
      w(load_numbers(call.inputs[kW])),
      r(load_numbers(call.inputs[kR])),
      bias(load_optional(call, kBias)),
      initial_h(load_optional(call, kInitialH)) {}

double RecurrentCell::from_x(int64_t d, int64_t row, int64_t x_begin) const {
  const int64_t rows = layout.rows();
  double sum = bias.empty() ? 0.0 : bias[at(d * 2 * rows + row)];
  const double* w_row = w.data() + (d * rows + row) * layout.inputs;
  for (int64_t i = 0; i < layout.inputs; ++i) sum += w_row[i] * x[at(x_begin + i)];
  return sum;
}

double RecurrentCell::from_h(int64_t d, int64_t row, const double* h) const {
  const int64_t rows = layout.rows();
  double sum = bias.empty() ? 0.0 : bias[at((d * 2 + 1) * rows + row)];
  const double* r_row = r.data() + (d * rows + row) * layout.hidden;
  for (int64_t u = 0; u < layout.hidden; ++u) sum += r_row[u] * h[u];
  return sum;
}

void RecurrentCell::add_to_x(int64_t d, const double* dgates, double* dx) const {
  for (int64_t row = 0; row < layout.rows(); ++row) {
    const double* w_row = w.data() + (d * layout.rows() + row) * layout.inputs;
    for (int64_t i = 0; i < layout.inputs; ++i) dx[i] += dgates[row] * w_row[i];
  }
}

void RecurrentCell::add_to_h(int64_t d, const double* dgates, int64_t first, int64_t end, double* dh) const {
  for (int64_t row = first * layout.hidden; row < end * layout.hidden; ++row) {
    const double* r_row = r.data() + (d * layout.rows() + row) * layout.hidden;
    for (int64_t u = 0; u < layout.hidden; ++u) dh[u] += dgates[row] * r_row[u];
  }
}

std::vector<double> RecurrentCell::first_hidden(int64_t d, int64_t b) const {
  std::vector<double> hidden(at((lengths[at(b)] + 1) * layout.hidden));
  if (!initial_h.empty()) std::copy_n(initial_h.begin() + layout.state_at(d, b), layout.hidden, hidden.begin());
  return hidden;
}

void RecurrentCell::put_hidden(const std::vector<double>& hidden, int64_t d, int64_t b, std::vector<double>& y) const {
  const int64_t length = lengths[at(b)];
  for (int64_t k = 0; k < length; ++k) {
    const int64_t to = layout.y_at(layout.time(d, k, length), d, b);
    std::copy_n(hidden.begin() + (k + 1) * layout.hidden, layout.hidden, y.begin() + to);
  }
}

void recurrent_weight_grad(OpKind op, const KernelCall& call, int64_t gate_count, size_t sequence_lens,
                           const ResetGates* reset) {
  const RecurrentLayout layout(call.attributes, call.inputs[1].shape, gate_count);
  const std::vector<int64_t> lengths = sequence_lengths(op, call, sequence_lens, layout);
  const std::vector<double> dgates = load_numbers(call.inputs[0]);
  const std::vector<double> x = load_numbers(call.inputs[1]);
  const std::vector<double> y = load_numbers(call.inputs[2]);
  const std::vector<double> initial_h = load_optional(call, sequence_lens + 1);
  const std::vector<double> zeros(at(layout.hidden), 0.0);
  const int64_t rows = layout.rows();
  const int64_t first_reset_row = reset == nullptr ? rows : rows - layout.hidden;  // GRU's gate h is its last
  std::vector<double> dw(at(layout.directions * rows * layout.inputs), 0.0);
  std::vector<double> dr(at(layout.directions * rows * layout.hidden), 0.0);
  std::vector<double> db(at(layout.directions * 2 * rows), 0.0);
  for (int64_t d = 0; d < layout.directions; ++d) {
    for (int64_t b = 0; b < layout.batch; ++b) {
      const double* h = initial_h.empty() ? zeros.data() : initial_h.data() + layout.state_at(d, b);
      for (int64_t k = 0; k < lengths[at(b)]; ++k) {
        const int64_t t = layout.time(d, k, lengths[at(b)]);
        const double* r = reset == nullptr ? nullptr : reset->values.data() + layout.reset_at(t, d, b);
        for (int64_t row = 0; row < rows; ++row) {
          const double gate = dgates[at(layout.gates_at(t, d, b) + row)];
          const bool is_reset_row = row >= first_reset_row;
          const bool is_before = is_reset_row && reset->is_linear_before;
          const double recurrent_gate = is_before ? gate * r[row - first_reset_row] : gate;
          for (int64_t i = 0; i < layout.inputs; ++i)
            dw[at((d * rows + row) * layout.inputs + i)] += gate * x[at(layout.x_at(t, b) + i)];
          for (int64_t u = 0; u < layout.hidden; ++u) {
            const double seen = is_reset_row && !is_before ? r[u] * h[u] : h[u];
            dr[at((d * rows + row) * layout.hidden + u)] += recurrent_gate * seen;
          }
          db[at(d * 2 * rows + row)] += gate;
          db[at((d * 2 + 1) * rows + row)] += recurrent_gate;
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
