// Layer, RMS and batch normalization with gradients in f32. Statistics are sums of row_math.h, then f64.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "executor/cpu/factories.h"
#include "executor/cpu/row_math.h"
#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements below which a second thread costs more than it saves

// --- Layer and RMS normalization: x (rows, columns), each row is normalized.

struct Rows {
  Rows(const KernelCall& call, const Shape& x)
      : columns(x.elements(static_cast<int>(call.attributes.integer("axis")), x.rank())),
        count(x.elements() / columns),
        epsilon(call.attributes.number("epsilon")) {}
  int64_t grain() const { return 1 + kGrain / columns; }
  int64_t columns;
  int64_t count;
  double epsilon;
};

struct RowStatistics {
  float mean = 0;     // 0 for RMS
  float inverse = 0;  // 1 / sqrt(variance + epsilon)
};

template <bool kIsCentered>
RowStatistics statistics(const float* x, const Rows& rows) {
  RowStatistics result;
  const double count = static_cast<double>(rows.columns);
  if (kIsCentered) result.mean = static_cast<float>(row_sum(x, rows.columns) / count);
  result.inverse =
      static_cast<float>(1.0 / std::sqrt(row_square_sum(x, result.mean, rows.columns) / count + rows.epsilon));
  return result;
}

// Results that are also wanted in 16 bits (output `at`): this kernel runs on f32 copies, so both are f32 here.
float* row_of_result(const KernelCall& call, size_t at, const Rows& rows, int64_t row) {
  const size_t output = call.has_output(0) ? 0 : at;
  return call.has_output(output) ? call.outputs[output].as<float>() + row * rows.columns : nullptr;
}
void copy_rounded(const KernelCall& call, size_t at, const Rows& rows, int64_t row) {
  if (!call.has_output(0) || !call.has_output(at)) return;
  std::copy_n(call.outputs[0].as<float>() + row * rows.columns, rows.columns,
              call.outputs[at].as<float>() + row * rows.columns);
}

template <bool kIsCentered>
void normalize_rows(const KernelCall& call, int threads) {
  constexpr size_t kRounded = kIsCentered ? 3 : 1;  // behind the statistics
  const Rows rows(call, call.inputs[0].shape);
  const float* scale = call.inputs[1].as<float>();
  const float* bias = call.has_input(2) ? call.inputs[2].as<float>() : nullptr;
  parallel_for(threads, rows.count, rows.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = call.inputs[0].as<float>() + row * rows.columns;
      const RowStatistics s = statistics<kIsCentered>(x, rows);
      if (float* y = row_of_result(call, kRounded, rows, row)) {
        row_normalize(x, s.mean, s.inverse, scale, bias, y, rows.columns);
        copy_rounded(call, kRounded, rows, row);
      }
      if (!kIsCentered) continue;
      if (call.has_output(1)) call.outputs[1].as<float>()[row] = s.mean;
      if (call.has_output(2)) call.outputs[2].as<float>()[row] = s.inverse;
    }
  });
}

// dx = inverse (dy scale - (sum(dy scale) + xhat sum(dy scale xhat)) / columns).
MPC_CLONES void row_gradient(const float* dy, const float* x, const float* scale, RowStatistics s, float mean_term,
                             float xhat_term, float* dx, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float xhat = (x[i] - s.mean) * s.inverse;
    dx[i] = s.inverse * (dy[i] * scale[i] - (mean_term + xhat * xhat_term));
  }
}

MPC_CLONES void add_row(const float* from, float* to, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

template <bool kIsCentered>
void row_gradients(const KernelCall& call, int threads) {
  constexpr size_t kRounded = 1;
  const Rows rows(call, call.inputs[1].shape);
  const float* scale = call.inputs[2].as<float>();
  parallel_for(threads, rows.count, rows.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* dy = call.inputs[0].as<float>() + row * rows.columns;
      const float* x = call.inputs[1].as<float>() + row * rows.columns;
      const RowStatistics s = statistics<kIsCentered>(x, rows);
      const double count = static_cast<double>(rows.columns);
      const double sum = kIsCentered ? row_dot(dy, scale, rows.columns) : 0.0;
      const double sum_xhat = row_dot3_centered(dy, scale, x, s.mean, rows.columns) * static_cast<double>(s.inverse);
      float* dx = row_of_result(call, kRounded, rows, row);
      row_gradient(dy, x, scale, s, static_cast<float>(sum / count), static_cast<float>(sum_xhat / count), dx,
                   rows.columns);
      if (call.has_input(3)) add_row(call.inputs[3].as<float>() + row * rows.columns, dx, rows.columns);
      copy_rounded(call, kRounded, rows, row);
    }
  });
}

MPC_CLONES void add_weight_gradients(const float* dy, const float* x, RowStatistics s, double* dscale, double* dbias,
                                     int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    dscale[i] += static_cast<double>(dy[i] * ((x[i] - s.mean) * s.inverse));
    dbias[i] += static_cast<double>(dy[i]);
  }
}

template <bool kIsCentered>
void weight_gradients(const KernelCall& call, int) {
  const Rows rows(call, call.inputs[1].shape);
  const int64_t bytes = 2 * rows.columns * static_cast<int64_t>(sizeof(double));
  double* dscale = reinterpret_cast<double*>(thread_scratch(bytes).data());  // (columns)
  double* dbias = dscale + rows.columns;                                     // (columns)
  std::fill_n(dscale, 2 * rows.columns, 0.0);
  for (int64_t row = 0; row < rows.count; ++row) {
    const float* x = call.inputs[1].as<float>() + row * rows.columns;
    add_weight_gradients(call.inputs[0].as<float>() + row * rows.columns, x, statistics<kIsCentered>(x, rows), dscale,
                         dbias, rows.columns);
  }
  const auto store = [&](size_t output, const double* from) {
    if (!call.has_output(output)) return;
    float* to = call.outputs[output].as<float>();
    for (int64_t i = 0; i < rows.columns; ++i) to[i] = static_cast<float>(from[i]);
  };
  store(0, dscale);
  store(1, dbias);
}

// --- Batch normalization: x (batch, channels, positions).

struct Planes {
  explicit Planes(const Shape& x) : batch(x[0]), channels(x[1]), positions(x.elements(2, x.rank())) {}
  int64_t at(int64_t n, int64_t c) const { return (n * channels + c) * positions; }
  double count() const { return static_cast<double>(batch * positions); }
  int64_t grain() const { return 1 + kGrain / std::max<int64_t>(batch * positions, 1); }
  int64_t batch;
  int64_t channels;
  int64_t positions;
};

struct Moments {
  double mean = 0;
  double variance = 0;
};

Moments moments(const Planes& planes, const float* x, int64_t channel) {
  Moments result;
  for (int64_t n = 0; n < planes.batch; ++n) result.mean += row_sum(x + planes.at(n, channel), planes.positions);
  result.mean /= planes.count();
  const float mean = static_cast<float>(result.mean);
  for (int64_t n = 0; n < planes.batch; ++n) {
    result.variance += row_square_sum(x + planes.at(n, channel), mean, planes.positions);
  }
  // The mean was rounded to f32 for the subtraction: take its error out again.
  const double error = result.mean - static_cast<double>(mean);
  result.variance = std::max(result.variance / planes.count() - error * error, 0.0);
  return result;
}

void batch_inference(const KernelCall& call, int threads) {
  const Planes planes(call.inputs[0].shape);
  const double epsilon = call.attributes.number("epsilon");
  const float* scale = call.inputs[1].as<float>();
  const float* bias = call.inputs[2].as<float>();
  const float* mean = call.inputs[3].as<float>();
  const float* variance = call.inputs[4].as<float>();
  parallel_for(threads, planes.batch * planes.channels, 1 + kGrain / planes.positions, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t c = plane % planes.channels;
      const double factor = static_cast<double>(scale[c]) / std::sqrt(static_cast<double>(variance[c]) + epsilon);
      const double offset = static_cast<double>(bias[c]) - static_cast<double>(mean[c]) * factor;
      row_affine(call.inputs[0].as<float>() + plane * planes.positions, static_cast<float>(factor),
                 static_cast<float>(offset), call.outputs[0].as<float>() + plane * planes.positions, planes.positions);
    }
  });
}

MPC_CLONES void center_and_scale(const float* x, float mean, float factor, float bias, float* y, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = (x[i] - mean) * factor + bias;
}

void batch_training_channel(const KernelCall& call, const Planes& planes, int64_t c) {
  const float* x = call.inputs[0].as<float>();
  const Moments m = moments(planes, x, c);
  const double inverse = 1.0 / std::sqrt(m.variance + call.attributes.number("epsilon"));
  if (call.has_output(0)) {
    const double factor = inverse * static_cast<double>(call.inputs[1].as<float>()[c]);
    for (int64_t n = 0; n < planes.batch; ++n) {
      center_and_scale(x + planes.at(n, c), static_cast<float>(m.mean), static_cast<float>(factor),
                       call.inputs[2].as<float>()[c], call.outputs[0].as<float>() + planes.at(n, c), planes.positions);
    }
  }
  const double momentum = call.attributes.number("momentum");
  const auto blend = [&](size_t input, double fresh) {
    return static_cast<float>(static_cast<double>(call.inputs[input].as<float>()[c]) * momentum +
                              fresh * (1 - momentum));
  };
  // Outputs 1 and 2 may be the bytes of inputs 3 and 4: element c is read before it is written.
  const float running_mean = blend(3, m.mean);
  const float running_variance = blend(4, m.variance);
  if (call.has_output(1)) call.outputs[1].as<float>()[c] = running_mean;
  if (call.has_output(2)) call.outputs[2].as<float>()[c] = running_variance;
  if (call.has_output(3)) call.outputs[3].as<float>()[c] = static_cast<float>(m.mean);
  if (call.has_output(4)) call.outputs[4].as<float>()[c] = static_cast<float>(inverse);
}

void batch_training(const KernelCall& call, int threads) {
  const Planes planes(call.inputs[0].shape);
  parallel_for(threads, planes.channels, planes.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) batch_training_channel(call, planes, c);
  });
}

// dx = factor (dy - (dbias + xhat dscale) / count).
MPC_CLONES void batch_gradient(const float* dy, const float* x, RowStatistics s, float factor, float bias_term,
                               float scale_term, float* dx, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float xhat = (x[i] - s.mean) * s.inverse;
    dx[i] = factor * (dy[i] - (bias_term + xhat * scale_term));
  }
}

void batch_gradient_channel(const KernelCall& call, const Planes& planes, int64_t c) {
  const float* dy = call.inputs[0].as<float>();
  const float* x = call.inputs[1].as<float>();
  RowStatistics s;
  if (call.has_input(3)) {
    s = {call.inputs[3].as<float>()[c], call.inputs[4].as<float>()[c]};
  } else {
    const Moments m = moments(planes, x, c);
    s = {static_cast<float>(m.mean),
         static_cast<float>(1.0 / std::sqrt(m.variance + call.attributes.number("epsilon")))};
  }
  double dbias = 0;
  double dscale = 0;
  for (int64_t n = 0; n < planes.batch; ++n) {
    dbias += row_sum(dy + planes.at(n, c), planes.positions);
    dscale += row_dot_centered(dy + planes.at(n, c), x + planes.at(n, c), s.mean, planes.positions);
  }
  dscale *= static_cast<double>(s.inverse);
  if (call.has_output(0)) {
    const float factor = call.inputs[2].as<float>()[c] * s.inverse;
    for (int64_t n = 0; n < planes.batch; ++n) {
      batch_gradient(dy + planes.at(n, c), x + planes.at(n, c), s, factor, static_cast<float>(dbias / planes.count()),
                     static_cast<float>(dscale / planes.count()), call.outputs[0].as<float>() + planes.at(n, c),
                     planes.positions);
    }
  }
  if (call.has_output(1)) call.outputs[1].as<float>()[c] = static_cast<float>(dscale);
  if (call.has_output(2)) call.outputs[2].as<float>()[c] = static_cast<float>(dbias);
}

void batch_gradients(const KernelCall& call, int threads) {
  const Planes planes(call.inputs[1].shape);
  parallel_for(threads, planes.channels, planes.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) batch_gradient_channel(call, planes, c);
  });
}

/// Do scale and bias have one element for each column?
bool has_whole_row(const NodeSpec& node, const Shape& x, size_t operand) {
  if (!has_input(node, operand)) return true;
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  return node.inputs[operand].shape.elements() == x.elements(axis, x.rank());
}

PlainRun row_kernel(OpKind op) {
  switch (op) {
    case OpKind::LayerNormalization:
      return &normalize_rows<true>;
    case OpKind::RMSNormalization:
      return &normalize_rows<false>;
    case OpKind::LayerNormalizationGrad:
      return &row_gradients<true>;
    case OpKind::RMSNormalizationGrad:
      return &row_gradients<false>;
    case OpKind::LayerNormalizationWeightGrad:
      return &weight_gradients<true>;
    case OpKind::RMSNormalizationWeightGrad:
      return &weight_gradients<false>;
    default:
      return nullptr;
  }
}

}  // namespace

KernelOrReason row_normalization(const NodeSpec& node) {
  if (!all_of_type(node, DType::f32)) return declined("normalization by rows: only f32");
  if (has_empty_operand(node)) return declined("normalization by rows: an operand is empty");
  const bool is_forward = node.op == OpKind::LayerNormalization || node.op == OpKind::RMSNormalization;
  const Shape& x = node.inputs[is_forward ? 0 : 1].shape;
  if ((is_forward && !has_whole_row(node, x, 1)) || !has_whole_row(node, x, 2)) {
    return declined("normalization by rows: scale or bias is broadcast within a row");
  }
  return plain_kernel("cpu:rows", row_kernel(node.op), node.threads);
}

KernelOrReason batch_normalization(const NodeSpec& node) {
  if (!all_of_type(node, DType::f32)) return declined("normalization by channels: only f32");
  if (has_empty_operand(node)) return declined("normalization by channels: an operand is empty");
  if (node.inputs[0].shape.rank() < 2) return declined("normalization by channels: x has no channels");
  switch (node.op) {
    case OpKind::BatchNormalization:
      return plain_kernel("cpu:channels", &batch_inference, node.threads);
    case OpKind::BatchNormalizationTraining:
      return plain_kernel("cpu:channels", &batch_training, node.threads);
    case OpKind::BatchNormalizationGrad:
      return plain_kernel("cpu:channels", &batch_gradients, node.threads);
    default:
      return declined("normalization by channels: not a batch normalization");
  }
}

}  // namespace mpc::cpu
