#include "executor/cpu/onednn_recurrent.h"

#include <algorithm>

#include <oneapi/dnnl/dnnl.h>

#include "compiler/base/error.h"
#include "executor/cpu/row_math.h"

namespace mpc::cpu {
namespace {

/// out[i] = a[i] * b[i], rows of `count` numbers; those of a are `step` apart.
void multiply_rows(int64_t rows, int64_t count, const float* a, int64_t step, const float* b, float* out) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < count; ++i) out[row * count + i] = a[row * step + i] * b[row * count + i];
  }
}

/// The sums of the columns of rows that are `step` apart.
void sum_rows(int64_t rows, int64_t columns, const float* from, int64_t step, double* sums, float* out) {
  std::fill_n(sums, columns, 0.0);
  for (int64_t row = 0; row < rows; ++row) row_add(from + row * step, sums, columns);
  for (int64_t i = 0; i < columns; ++i) out[i] = static_cast<float>(sums[i]);
}

}  // namespace

void multiply(int64_t rows, int64_t columns, int64_t inner, Matrix a, Matrix b, float beta, float* y,
              int64_t row_step) {
  const dnnl_status_t status = dnnl_sgemm(a.is_transposed ? 'T' : 'N', b.is_transposed ? 'T' : 'N', rows, columns,
                                          inner, 1.0f, a.data, a.row_step, b.data, b.row_step, beta, y, row_step);
  MPC_CHECK(status == dnnl_success, "oneDNN's sgemm refused its operands");
}

RecurrentSizes::RecurrentSizes(const Attributes& attributes, const Shape& x, int64_t gates)
    : is_batch_first(attributes.integer("layout") == 1),
      steps(x[is_batch_first ? 1 : 0]),
      batch(x[is_batch_first ? 0 : 1]),
      inputs(x[2]),
      hidden(attributes.integer("hidden_size")),
      directions(attributes.text("direction") == "bidirectional" ? 2 : 1),
      gate_count(gates),
      is_first_reverse(attributes.text("direction") == "reverse") {}

ScratchParts::ScratchParts(std::initializer_list<int64_t> counts) {
  int64_t total = 0;
  for (const int64_t count : counts) total += padded(count);
  next_ = reinterpret_cast<float*>(thread_scratch(total * static_cast<int64_t>(sizeof(float))).data());
}

const float* time_major(const RecurrentSizes& s, const float* x, float* buffer) {
  if (!s.is_batch_first) return x;
  for (int64_t t = 0; t < s.steps; ++t) {
    for (int64_t b = 0; b < s.batch; ++b)
      std::copy_n(x + s.x_at(t, b), s.inputs, buffer + (t * s.batch + b) * s.inputs);
  }
  return buffer;
}

void store_x(const RecurrentSizes& s, const float* dx, float* to) {
  for (int64_t t = 0; t < s.steps; ++t) {
    for (int64_t b = 0; b < s.batch; ++b) std::copy_n(dx + (t * s.batch + b) * s.inputs, s.inputs, to + s.x_at(t, b));
  }
}

void load_state(const RecurrentSizes& s, const KernelCall& call, size_t operand, int64_t d, float* state) {
  if (!call.has_input(operand)) {
    std::fill_n(state, s.batch * s.hidden, 0.0f);
    return;
  }
  const float* from = call.inputs[operand].as<float>();
  for (int64_t b = 0; b < s.batch; ++b) std::copy_n(from + s.state_at(d, b), s.hidden, state + b * s.hidden);
}

void store_state(const RecurrentSizes& s, const KernelCall& call, size_t output, int64_t d, const float* state) {
  if (!call.has_output(output)) return;
  float* to = call.outputs[output].as<float>();
  for (int64_t b = 0; b < s.batch; ++b) std::copy_n(state + b * s.hidden, s.hidden, to + s.state_at(d, b));
}

void store_sequence(const RecurrentSizes& s, const KernelCall& call, size_t output, int64_t d, const float* states) {
  if (!call.has_output(output)) return;
  float* y = call.outputs[output].as<float>();
  for (int64_t k = 0; k < s.steps; ++k) {
    for (int64_t b = 0; b < s.batch; ++b) {
      std::copy_n(states + ((k + 1) * s.batch + b) * s.hidden, s.hidden, y + s.y_at(s.time(d, k), d, b));
    }
  }
}

void gates_from_x(const RecurrentSizes& s, const KernelCall& call, const float* x, int64_t d, int64_t recurrent_rows,
                  float* gates) {
  const float* w = call.inputs[kW].as<float>() + d * s.rows() * s.inputs;
  multiply(s.steps * s.batch, s.rows(), s.inputs, {x, s.inputs}, {w, s.inputs, true}, 0.0f, gates, s.rows());
  if (!call.has_input(kBias)) return;
  const float* bias = call.inputs[kBias].as<float>() + d * 2 * s.rows();
  for (int64_t row = 0; row < s.steps * s.batch; ++row) {
    row_add(bias, gates + row * s.rows(), s.rows());
    row_add(bias + s.rows(), gates + row * s.rows(), recurrent_rows);
  }
}

const float* recurrent_bias(const RecurrentSizes& s, const KernelCall& call, int64_t d) {
  return call.has_input(kBias) ? call.inputs[kBias].as<float>() + (d * 2 + 1) * s.rows() : nullptr;
}

void recurrent_weight_grad(const KernelCall& call, int64_t gate_count, size_t initial_h, Reset reset) {
  constexpr size_t kY = 2;
  constexpr size_t kResetGates = 3;
  const RecurrentSizes s(call.attributes, call.inputs[1].shape, gate_count);
  const int64_t rows = s.steps * s.batch;
  const bool has_reset = reset != Reset::none;
  ScratchParts parts(
      {rows * s.inputs, rows * s.rows(), rows * s.hidden, has_reset ? rows * s.hidden : 0, 2 * s.rows()});
  const float* x = time_major(s, call.inputs[1].as<float>(), parts.take(rows * s.inputs));
  float* dgates = parts.take(rows * s.rows());
  float* before = parts.take(rows * s.hidden);  // (T, B, H) by time
  // The last gate's other factor in dR, times the reset gates: `before`, or its own dgates.
  float* with_reset = parts.take(has_reset ? rows * s.hidden : 0);
  double* sums = reinterpret_cast<double*>(parts.take(2 * s.rows()));
  const float* y = call.inputs[kY].as<float>();
  const int64_t plain_rows = has_reset ? s.rows() - s.hidden : s.rows();
  for (int64_t d = 0; d < s.directions; ++d) {
    for (int64_t k = 0; k < s.steps; ++k) {
      const int64_t t = s.time(d, k);
      float* step_gates = dgates + t * s.batch * s.rows();
      std::copy_n(call.inputs[0].as<float>() + s.gates_at(t, d), s.batch * s.rows(), step_gates);
      float* state = before + t * s.batch * s.hidden;
      if (k == 0) load_state(s, call, initial_h, d, state);
      for (int64_t b = 0; k > 0 && b < s.batch; ++b) {
        std::copy_n(y + s.y_at(s.time(d, k - 1), d, b), s.hidden, state + b * s.hidden);
      }
      if (!has_reset) continue;
      const float* gates = call.inputs[kResetGates].as<float>() + s.reset_at(t, d);
      float* product = with_reset + t * s.batch * s.hidden;
      if (reset == Reset::before_product) multiply_rows(s.batch, s.hidden, state, s.hidden, gates, product);
      if (reset == Reset::after_product)
        multiply_rows(s.batch, s.hidden, step_gates + plain_rows, s.rows(), gates, product);
    }
    if (call.has_output(0)) {
      multiply(s.rows(), s.inputs, rows, {dgates, s.rows(), true}, {x, s.inputs}, 0.0f,
               call.outputs[0].as<float>() + d * s.rows() * s.inputs, s.inputs);
    }
    if (call.has_output(1)) {
      float* dr = call.outputs[1].as<float>() + d * s.rows() * s.hidden;
      multiply(plain_rows, s.hidden, rows, {dgates, s.rows(), true}, {before, s.hidden}, 0.0f, dr, s.hidden);
      const Matrix last_gates = reset == Reset::after_product ? Matrix{with_reset, s.hidden, true}
                                                              : Matrix{dgates + plain_rows, s.rows(), true};
      const Matrix seen{reset == Reset::before_product ? with_reset : before, s.hidden};
      if (has_reset) multiply(s.hidden, s.hidden, rows, last_gates, seen, 0.0f, dr + plain_rows * s.hidden, s.hidden);
    }
    if (!call.has_output(2)) continue;
    float* db = call.outputs[2].as<float>() + d * 2 * s.rows();
    sum_rows(rows, s.rows(), dgates, s.rows(), sums, db);
    std::copy_n(db, s.rows(), db + s.rows());
    if (reset == Reset::after_product) sum_rows(rows, s.hidden, with_reset, s.hidden, sums, db + s.rows() + plain_rows);
  }
}

std::string recurrent_refusal(const NodeSpec& node, const std::string& what, size_t sequence_lens) {
  if (has_input(node, sequence_lens)) return what + ": only sequences of full length";
  if (!all_of_type(node, DType::f32)) return what + ": only f32";
  if (has_empty_operand(node)) return what + ": an operand is empty";
  return {};
}

}  // namespace mpc::cpu
