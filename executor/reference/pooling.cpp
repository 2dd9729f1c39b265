#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "compiler/base/channels_last.h"
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
int64_t first_largest(const std::vector<double>& x, const PlaneOrder& order, int64_t plane,
                      const std::vector<Window::Tap>& taps) {
  int64_t best = kNoTap;
  for (const auto& tap : taps) {
    const double value = x[at(order.at(plane, tap.input_at))];
    if (best == kNoTap || value > x[at(order.at(plane, best))]) best = tap.input_at;
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

/// The window of a pool and the planes that it reads and writes. Shapes as they are stored.
struct Pool {
  Pool(const Attributes& attributes, const Shape& stored_x, const Shape& stored_y)
      : Pool(attributes, {channels_first_shape(attributes, stored_x), channels_first_shape(attributes, stored_y)}) {}

  Window window;
  PlaneOrder x, y;
  int64_t planes;

 private:
  Pool(const Attributes& attributes, const std::array<Shape, 2>& shapes)  // x, y with channels first
      : window(attributes, shapes[0], shapes[1]),
        x(attributes, shapes[0]),
        y(attributes, shapes[1]),
        planes(shapes[0].elements(0, 2)) {}
};

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
  const Pool pool(call.attributes, input.shape, y.data != nullptr ? y.shape : call.outputs[1].shape);
  const bool is_column_major = call.attributes.integer("storage_order") == 1;
  const std::vector<double> x = load_numbers(input);
  for_each_window(pool.window, pool.planes, [&](int64_t plane, int64_t position, const Index&, const auto& taps) {
    const int64_t best = first_largest(x, pool.x, plane, taps);
    const int64_t i = pool.y.at(plane, position);
    if (call.has_output(0)) {
      if (best == kNoTap) {
        write_lowest(y, i);
      } else {
        copy_element(y, i, input, pool.x.at(plane, best));
      }
    }
    if (!call.has_output(1)) return;
    const int64_t in_plane = is_column_major && best != kNoTap ? column_major(best, pool.window.inputs()) : best;
    set_integer(call.outputs[1], i, best == kNoTap ? kNoTap : plane * pool.x.positions + in_plane);
  });
}

void MaxPoolGrad(const KernelCall& call) {
  const Pool pool(call.attributes, call.inputs[1].shape, call.inputs[0].shape);
  const std::vector<double> dy = load_numbers(call.inputs[0]);
  const std::vector<double> x = load_numbers(call.inputs[1]);
  std::vector<double> dx(x.size(), 0.0);
  for_each_window(pool.window, pool.planes, [&](int64_t plane, int64_t position, const Index&, const auto& taps) {
    const int64_t best = first_largest(x, pool.x, plane, taps);
    if (best != kNoTap) dx[at(pool.x.at(plane, best))] += dy[at(pool.y.at(plane, position))];
  });
  store_all(call.outputs[0], dx);
}

void AveragePool(const KernelCall& call) {
  const TensorView& y = call.outputs[0];
  const Pool pool(call.attributes, call.inputs[0].shape, y.shape);
  const bool count_include_pad = call.attributes.flag("count_include_pad");
  const std::vector<double> x = load_numbers(call.inputs[0]);
  for_each_window(pool.window, pool.planes, [&](int64_t plane, int64_t position, const Index& index, const auto& taps) {
    double sum = 0;
    for (const auto& tap : taps) sum += x[at(pool.x.at(plane, tap.input_at))];
    set_number(y, pool.y.at(plane, position), sum / divisor(pool.window, index, taps.size(), count_include_pad));
  });
}

void AveragePoolGrad(const KernelCall& call) {
  const Pool pool(call.attributes, call.outputs[0].shape, call.inputs[0].shape);
  const bool count_include_pad = call.attributes.flag("count_include_pad");
  const std::vector<double> dy = load_numbers(call.inputs[0]);
  std::vector<double> dx(at(call.outputs[0].shape.elements()), 0.0);
  for_each_window(pool.window, pool.planes, [&](int64_t plane, int64_t position, const Index& index, const auto& taps) {
    const double share =
        dy[at(pool.y.at(plane, position))] / divisor(pool.window, index, taps.size(), count_include_pad);
    for (const auto& tap : taps) dx[at(pool.x.at(plane, tap.input_at))] += share;
  });
  store_all(call.outputs[0], dx);
}

}  // namespace mpc::reference
