#include <cmath>
#include <vector>

#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

// Batch normalization: x (N, C, positions).

struct Moments {
  double mean = 0;
  double variance = 0;  // of the population
};

/// Calls f(position in the tensor) for all elements of one channel.
template <class F>
void for_each_of_channel(const AxisView& view, int64_t channel, F&& f) {
  if (view.inner == 0) return;
  for (int64_t n = 0; n < view.outer; ++n) {
    const int64_t begin = (n * view.length + channel) * view.inner;
    for (int64_t i = begin; i < begin + view.inner; ++i) f(static_cast<size_t>(i));
  }
}

/// Mean and variance of a channel; both are 0 when it has no elements.
Moments channel_moments(const AxisView& view, const std::vector<double>& x, int64_t channel) {
  const double count = static_cast<double>(view.outer * view.inner);
  if (count == 0) return {};
  Moments moments;
  for_each_of_channel(view, channel, [&](size_t i) { moments.mean += x[i]; });
  moments.mean /= count;
  for_each_of_channel(view, channel,
                      [&](size_t i) { moments.variance += (x[i] - moments.mean) * (x[i] - moments.mean); });
  moments.variance /= count;
  return moments;
}

// Layer and RMS normalization: x (rows, columns), each row is normalized.

struct Rows {
  Rows(const Attributes& attributes, const Shape& x)
      : count(x.elements(0, static_cast<int>(attributes.integer("axis")))),
        columns(x.elements(static_cast<int>(attributes.integer("axis")), x.rank())),
        epsilon(attributes.number("epsilon")) {}
  int64_t count;
  int64_t columns;
  double epsilon;
};

/// A row turned into xhat = (x - mean) * inverse; RMS normalization leaves the mean in.
struct NormalizedRow {
  double mean = 0;
  double inverse = 0;  // 1 / sqrt(variance + epsilon)
  std::vector<double> xhat;
};

enum class Center : uint8_t { mean, none };

NormalizedRow normalized_row(const TensorView& x, const Rows& rows, int64_t row, Center center) {
  NormalizedRow result;
  result.xhat.resize(static_cast<size_t>(rows.columns));
  load<double>(x, row * rows.columns, result.xhat);
  const double count = rows.columns == 0 ? 1.0 : static_cast<double>(rows.columns);
  if (center == Center::mean) {
    for (const double value : result.xhat) result.mean += value;
    result.mean /= count;
  }
  double variance = 0;
  for (double& value : result.xhat) {
    value -= result.mean;
    variance += value * value;
  }
  result.inverse = 1.0 / std::sqrt(variance / count + rows.epsilon);
  for (double& value : result.xhat) value *= result.inverse;
  return result;
}

std::vector<double> broadcast_row(const TensorView& from, const Shape& x, const Rows& rows, int64_t row) {
  std::vector<double> values(static_cast<size_t>(rows.columns));
  load_broadcast<double>(from, x, row * rows.columns, values);
  return values;
}

void write_rows(const KernelCall& call, Center center) {
  const TensorView& x = call.inputs[0];
  const Rows rows(call.attributes, x.shape);
  const bool has_statistics = call.has_output(1) || call.has_output(2);
  if (rows.columns == 0 && !has_statistics) return;
  for (int64_t row = 0; row < rows.count; ++row) {
    NormalizedRow normalized = normalized_row(x, rows, row, center);
    if (call.has_output(1)) set_number(call.outputs[1], row, normalized.mean);
    if (call.has_output(2)) set_number(call.outputs[2], row, normalized.inverse);
    if (!call.has_output(0)) continue;
    const std::vector<double> scale = broadcast_row(call.inputs[1], x.shape, rows, row);
    for (size_t i = 0; i < scale.size(); ++i) normalized.xhat[i] *= scale[i];
    if (call.has_input(2)) {
      const std::vector<double> bias = broadcast_row(call.inputs[2], x.shape, rows, row);
      for (size_t i = 0; i < bias.size(); ++i) normalized.xhat[i] += bias[i];
    }
    store<double>(call.outputs[0], row * rows.columns, normalized.xhat);
  }
}

void write_row_gradients(const KernelCall& call, Center center) {
  const TensorView& x = call.inputs[1];
  const Rows rows(call.attributes, x.shape);
  if (rows.columns == 0) return;
  for (int64_t row = 0; row < rows.count; ++row) {
    const NormalizedRow normalized = normalized_row(x, rows, row, center);
    std::vector<double> g = broadcast_row(call.inputs[2], x.shape, rows, row);
    std::vector<double> dy(g.size());
    load<double>(call.inputs[0], row * rows.columns, dy);
    double sum = 0;
    double sum_xhat = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      g[i] *= dy[i];
      sum += g[i];
      sum_xhat += g[i] * normalized.xhat[i];
    }
    if (center == Center::none) sum = 0;
    const double count = static_cast<double>(rows.columns);
    for (size_t i = 0; i < g.size(); ++i) {
      g[i] = normalized.inverse * (g[i] - (sum + normalized.xhat[i] * sum_xhat) / count);
    }
    store<double>(call.outputs[0], row * rows.columns, g);
  }
}

void write_weight_gradients(const KernelCall& call, Center center) {
  const TensorView& x = call.inputs[1];
  const Rows rows(call.attributes, x.shape);
  std::vector<double> dscale(static_cast<size_t>(rows.columns), 0.0);
  std::vector<double> dbias(dscale.size(), 0.0);
  std::vector<double> dy(dscale.size());
  for (int64_t row = 0; row < rows.count && rows.columns > 0; ++row) {
    const NormalizedRow normalized = normalized_row(x, rows, row, center);
    load<double>(call.inputs[0], row * rows.columns, dy);
    for (size_t i = 0; i < dy.size(); ++i) {
      dscale[i] += dy[i] * normalized.xhat[i];
      dbias[i] += dy[i];
    }
  }
  if (call.has_output(0)) store_all(call.outputs[0], dscale);
  if (call.has_output(1)) store_all(call.outputs[1], dbias);
}

/// Runs what writes output 0, then gives the same in 16 bits as output `at`, where that is asked for. Output 0 may be
/// absent: then it is written to memory of the call's own.
template <class Run>
void with_rounded(const KernelCall& call, size_t at, Run&& run) {
  if (!call.has_output(at)) return run(call);
  std::vector<float> own;
  std::vector<TensorView> outputs(call.outputs.begin(), call.outputs.begin() + static_cast<ptrdiff_t>(at));
  if (!call.has_output(0)) {
    own.resize(static_cast<size_t>(call.outputs[at].shape.elements()));
    outputs[0] = {DType::f32, call.outputs[at].shape, reinterpret_cast<std::byte*>(own.data())};
  }
  run({call.attributes, call.inputs, outputs, call.step, call.workspace});
  const Attributes none;
  reference_kernel(OpKind::Cast)({none, std::span(outputs).first(1), call.outputs.subspan(at, 1), call.step, {}});
}

constexpr size_t kRoundedOfLayer = 3;  // behind the statistics
constexpr size_t kRoundedOfOthers = 1;

/// dx += operand 3, where there is one.
void add_to_gradient(const KernelCall& call) {
  if (!call.has_input(3)) return;
  const Attributes none;
  const TensorView operands[] = {call.outputs[0], call.inputs[3]};
  reference_kernel(OpKind::Add)({none, operands, call.outputs, call.step, {}});
}

void write_dx(const KernelCall& call, Center center) {
  with_rounded(call, kRoundedOfOthers, [&](const KernelCall& plain) {
    if (!plain.has_output(0)) return;
    write_row_gradients(plain, center);
    add_to_gradient(plain);
  });
}

}  // namespace

void BatchNormalization(const KernelCall& call) {
  const AxisView view = around_axis(call.inputs[0].shape, 1);
  const double epsilon = call.attributes.number("epsilon");
  std::vector<double> x = load_numbers(call.inputs[0]);
  for (int64_t c = 0; c < view.length; ++c) {
    const double factor = number(call.inputs[1], c) / std::sqrt(number(call.inputs[4], c) + epsilon);
    const double bias = number(call.inputs[2], c);
    const double mean = number(call.inputs[3], c);
    for_each_of_channel(view, c, [&](size_t i) { x[i] = (x[i] - mean) * factor + bias; });
  }
  store_all(call.outputs[0], x);
}

void BatchNormalizationTraining(const KernelCall& call) {
  const AxisView view = around_axis(call.inputs[0].shape, 1);
  const double epsilon = call.attributes.number("epsilon");
  const double momentum = view.outer * view.inner == 0 ? 1.0 : call.attributes.number("momentum");
  std::vector<double> x = load_numbers(call.inputs[0]);
  for (int64_t c = 0; c < view.length; ++c) {
    const Moments moments = channel_moments(view, x, c);
    const double inverse = 1.0 / std::sqrt(moments.variance + epsilon);
    const double scale = number(call.inputs[1], c);
    const double bias = number(call.inputs[2], c);
    for_each_of_channel(view, c, [&](size_t i) { x[i] = (x[i] - moments.mean) * inverse * scale + bias; });
    // Outputs 1 and 2 may be the bytes of inputs 3 and 4: element c is read before it is written.
    const double mean = number(call.inputs[3], c) * momentum + moments.mean * (1 - momentum);
    const double variance = number(call.inputs[4], c) * momentum + moments.variance * (1 - momentum);
    if (call.has_output(1)) set_number(call.outputs[1], c, mean);
    if (call.has_output(2)) set_number(call.outputs[2], c, variance);
    if (call.has_output(3)) set_number(call.outputs[3], c, moments.mean);
    if (call.has_output(4)) set_number(call.outputs[4], c, inverse);
  }
  if (call.has_output(0)) store_all(call.outputs[0], x);
}

void BatchNormalizationGrad(const KernelCall& call) {
  const AxisView view = around_axis(call.inputs[1].shape, 1);
  const double count = static_cast<double>(view.outer * view.inner);
  std::vector<double> dy = load_numbers(call.inputs[0]);
  const std::vector<double> x = load_numbers(call.inputs[1]);
  for (int64_t c = 0; c < view.length; ++c) {
    double mean = 0;
    double inverse = 0;
    if (call.has_input(3)) {
      mean = number(call.inputs[3], c);
      inverse = number(call.inputs[4], c);
    } else {
      const Moments moments = channel_moments(view, x, c);
      mean = moments.mean;
      inverse = 1.0 / std::sqrt(moments.variance + call.attributes.number("epsilon"));
    }
    double dbias = 0;
    double dscale = 0;
    for_each_of_channel(view, c, [&](size_t i) {
      dbias += dy[i];
      dscale += dy[i] * (x[i] - mean) * inverse;
    });
    const double factor = number(call.inputs[2], c) * inverse;
    for_each_of_channel(view, c, [&](size_t i) {
      const double xhat = (x[i] - mean) * inverse;
      dy[i] = factor * (dy[i] - (dbias + xhat * dscale) / count);
    });
    if (call.has_output(1)) set_number(call.outputs[1], c, dscale);
    if (call.has_output(2)) set_number(call.outputs[2], c, dbias);
  }
  if (call.has_output(0)) store_all(call.outputs[0], dy);
}

void LayerNormalization(const KernelCall& call) {
  with_rounded(call, kRoundedOfLayer, [](const KernelCall& plain) { write_rows(plain, Center::mean); });
}
void LayerNormalizationGrad(const KernelCall& call) {
  write_dx(call, Center::mean);
}
void LayerNormalizationWeightGrad(const KernelCall& call) {
  write_weight_gradients(call, Center::mean);
}
void RMSNormalization(const KernelCall& call) {
  with_rounded(call, kRoundedOfOthers, [](const KernelCall& plain) { write_rows(plain, Center::none); });
}
void RMSNormalizationGrad(const KernelCall& call) {
  write_dx(call, Center::none);
}
void RMSNormalizationWeightGrad(const KernelCall& call) {
  write_weight_gradients(call, Center::none);
}

}  // namespace mpc::reference
