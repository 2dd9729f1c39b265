#include <algorithm>
#include <cmath>
#include <vector>

#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

/// Calls f with the positions of the elements of each line along the axis: f(first, step), element i being first + i *
/// step.
template <class F>
void for_each_line(const AxisView& view, F&& f) {
  if (view.length == 0) return;
  for (int64_t outer = 0; outer < view.outer; ++outer) {
    for (int64_t inner = 0; inner < view.inner; ++inner) f(outer * view.length * view.inner + inner, view.inner);
  }
}

struct Line {
  std::vector<double>& values;
  int64_t first;
  int64_t step;
  double& operator[](int64_t i) { return values[static_cast<size_t>(first + i * step)]; }
};

/// A line replaced by its softmax, or by the logarithm of it. Subtracting the maximum keeps exp finite.
void softmax_line(Line line, int64_t length, bool is_log) {
  double largest = line[0];
  for (int64_t i = 1; i < length; ++i) largest = std::max(largest, line[i]);
  double sum = 0;
  for (int64_t i = 0; i < length; ++i) sum += std::exp(line[i] - largest);
  const double log_sum = std::log(sum);
  for (int64_t i = 0; i < length; ++i) {
    line[i] = is_log ? line[i] - largest - log_sum : std::exp(line[i] - largest) / sum;
  }
}

void softmax(const KernelCall& call, bool is_log) {
  const AxisView view = around_axis(call.inputs[0].shape, call.attributes.integer("axis"));
  std::vector<double> values = load_numbers(call.inputs[0]);
  for_each_line(view, [&](int64_t first, int64_t step) { softmax_line({values, first, step}, view.length, is_log); });
  store_all(call.outputs[0], values);
}

}  // namespace

void Softmax(const KernelCall& call) {
  softmax(call, false);
}

void LogSoftmax(const KernelCall& call) {
  softmax(call, true);
}

void SoftmaxGrad(const KernelCall& call) {
  const AxisView view = around_axis(call.inputs[0].shape, call.attributes.integer("axis"));
  std::vector<double> dy = load_numbers(call.inputs[0]);
  std::vector<double> y = load_numbers(call.inputs[1]);
  std::vector<double> dx(dy.size());
  for_each_line(view, [&](int64_t first, int64_t step) {
    Line dys{dy, first, step}, ys{y, first, step}, dxs{dx, first, step};
    double sum = 0;
    for (int64_t i = 0; i < view.length; ++i) sum += dys[i] * ys[i];
    for (int64_t i = 0; i < view.length; ++i) dxs[i] = ys[i] * (dys[i] - sum);
  });
  store_all(call.outputs[0], dx);
}

void LogSoftmaxGrad(const KernelCall& call) {
  const AxisView view = around_axis(call.inputs[0].shape, call.attributes.integer("axis"));
  std::vector<double> dy = load_numbers(call.inputs[0]);
  std::vector<double> y = load_numbers(call.inputs[1]);
  std::vector<double> dx(dy.size());
  for_each_line(view, [&](int64_t first, int64_t step) {
    Line dys{dy, first, step}, ys{y, first, step}, dxs{dx, first, step};
    double sum = 0;
    for (int64_t i = 0; i < view.length; ++i) sum += dys[i];
    for (int64_t i = 0; i < view.length; ++i) dxs[i] = dys[i] - std::exp(ys[i]) * sum;
  });
  store_all(call.outputs[0], dx);
}

}  // namespace mpc::reference
