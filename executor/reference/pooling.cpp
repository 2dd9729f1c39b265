#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "executor/reference/support.h"
#include "executor/reference/window.h"

namespace mpc::reference {
namespace {

size_t at(int64_t position) {
  return static_cast<size_t>(position);
}

/// Calls f(plane, position, index, taps) for each window of each of the N * C planes, position by position.
template <class F>
void for_each_window(const Window& window, int64_t planes, F&& f) {
  if (planes == 0) return;  // there may be very many windows over nothing
  int64_t position = 0;
  for_each_index(window.outputs(), [&](const Index& index) {
    const auto taps = window.taps(index);
    for (int64_t plane = 0; plane < planes; ++plane) f(plane, position, index, taps);
    ++position;
  });
}

constexpr int64_t kNoTap = -1;

/// Position in the plane of the first largest element, of the first NaN if there is one, or kNoTap.
int64_t first_largest(const std::vector<double>& x, int64_t plane_begin, const std::vector<Window::Tap>& taps) {
  int64_t best = kNoTap;
  for (const auto& tap : taps) {
    const double value = x[at(plane_begin + tap.input_at)];
    if (best == kNoTap || value > x[at(plane_begin + best)]) best = tap.input_at;
    if (std::isnan(value)) return tap.input_at;
  }
  return best;
}

void write_lowest(const TensorView& y, int64_t i) {
  if (is_float(y.dtype)) return set_number(y, i, -std::numeric_limits<double>::infinity());
  set_integer(y, i, y.dtype == DType::i8 ? std::numeric_limits<int8_t>::lowest() : 0);
}

/// The position in a plane that is written column-major: the first spatial dimension runs fastest.
int64_t column_major(int64_t position, const Shape& plane) {
  const Index index = unravel(position, plane);
  int64_t result = 0;
  for (int axis = plane.rank() - 1; axis >= 0; --axis) result = result * plane[axis] + index[static_cast<size_t>(axis)];
  return result;
}

int64_t plane_count(const Shape& shape) {
  return shape.elements(0, 2);
}

/// What the sum of a window is divided by.
double divisor(const Window& window, const Index& index, size_t inside, bool count_include_pad) {
  const double count =
      count_include_pad ? static_cast<double>(window.padded_count(index)) : static_cast<double>(inside);
  return std::max(count, 1.0);
}

}  // namespace

void MaxPool(const KernelCall& call) {
  const TensorView& input = call.inputs[0];
  const TensorView& y = call.outputs[0];
  const Shape& y_shape = y.data != nullptr ? y.shape : call.outputs[1].shape;
  const Window window(call.attributes, input.shape, y_shape);
  const int64_t plane_elements = window.inputs().elements();
  const int64_t outputs = window.outputs().elements();
  const bool is_column_major = call.attributes.integer("storage_order") == 1;
  const std::vector<double> x = load_numbers(input);
  for_each_window(
      window, plane_count(input.shape), [&](int64_t plane, int64_t position, const Index&, const auto& taps) {
        const int64_t begin = plane * plane_elements;
        const int64_t best = first_largest(x, begin, taps);
        const int64_t i = plane * outputs + position;
        if (call.has_output(0)) {
          if (best == kNoTap) {
            write_lowest(y, i);
          } else {
            copy_element(y, i, input, begin + best);
          }
        }
        if (!call.has_output(1)) return;
        const int64_t in_plane = is_column_major && best != kNoTap ? column_major(best, window.inputs()) : best;
        set_integer(call.outputs[1], i, best == kNoTap ? kNoTap : begin + in_plane);
      });
}

void MaxPoolGrad(const KernelCall& call) {
  const Shape& x_shape = call.inputs[1].shape;
  const Window window(call.attributes, x_shape, call.inputs[0].shape);
  const int64_t plane_elements = window.inputs().elements();
  const int64_t outputs = window.outputs().elements();
  const std::vector<double> dy = load_numbers(call.inputs[0]);
  const std::vector<double> x = load_numbers(call.inputs[1]);
  std::vector<double> dx(x.size(), 0.0);
  for_each_window(window, plane_count(x_shape), [&](int64_t plane, int64_t position, const Index&, const auto& taps) {
    const int64_t begin = plane * plane_elements;
    const int64_t best = first_largest(x, begin, taps);
    if (best != kNoTap) dx[at(begin + best)] += dy[at(plane * outputs + position)];
  });
  store_all(call.outputs[0], dx);
}

void AveragePool(const KernelCall& call) {
  const TensorView& y = call.outputs[0];
  const Window window(call.attributes, call.inputs[0].shape, y.shape);
  const bool count_include_pad = call.attributes.flag("count_include_pad");
  const int64_t plane_elements = window.inputs().elements();
  const int64_t outputs = window.outputs().elements();
  const std::vector<double> x = load_numbers(call.inputs[0]);
  for_each_window(
      window, plane_count(y.shape), [&](int64_t plane, int64_t position, const Index& index, const auto& taps) {
        double sum = 0;
        for (const auto& tap : taps) sum += x[at(plane * plane_elements + tap.input_at)];
        set_number(y, plane * outputs + position, sum / divisor(window, index, taps.size(), count_include_pad));
      });
}

void AveragePoolGrad(const KernelCall& call) {
  const Shape& x_shape = call.outputs[0].shape;
  const Window window(call.attributes, x_shape, call.inputs[0].shape);
  const bool count_include_pad = call.attributes.flag("count_include_pad");
  const int64_t plane_elements = window.inputs().elements();
  const int64_t outputs = window.outputs().elements();
  const std::vector<double> dy = load_numbers(call.inputs[0]);
  std::vector<double> dx(at(x_shape.elements()), 0.0);
  for_each_window(window, plane_count(x_shape),
                  [&](int64_t plane, int64_t position, const Index& index, const auto& taps) {
                    const double share =
                        dy[at(plane * outputs + position)] / divisor(window, index, taps.size(), count_include_pad);
                    for (const auto& tap : taps) dx[at(plane * plane_elements + tap.input_at)] += share;
                  });
  store_all(call.outputs[0], dx);
}

}  // namespace mpc::reference
