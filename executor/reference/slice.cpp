// Slice, Pad and their gradients. Slice, SliceGrad and Pad move bytes, for every dtype; PadGrad adds in f64.

#include <algorithm>

#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

// Calls f(position in the sliced tensor, position in the whole one) for every element of the slice, in row-major order.
template <class F>
void for_each_sliced(const Attributes& attributes, const Shape& whole, const Shape& sliced, F&& f) {
  const auto& starts = attributes.integers("starts");
  const auto& axes = attributes.integers("axes");
  const auto& steps = attributes.integers("steps");
  Index step = strides(whole);
  int64_t origin = 0;
  for (size_t i = 0; i < axes.size(); ++i) {
    int64_t& of_axis = step[static_cast<size_t>(axes[i])];
    origin += starts[i] * of_axis;
    of_axis *= steps[i];
  }
  int64_t at = 0;
  for_each_index(sliced, [&](const Index& index) { f(at++, origin + offset(index, step, sliced.rank())); });
}

// Where Pad takes element `i` of an axis from, counted in the part of `length` elements that cropping leaves; -1: from
// nowhere (the pad value). `i` is negative before the part.
int64_t source_of(int64_t i, int64_t length, const std::string& mode) {
  if (i >= 0 && i < length) return i;
  if (mode == "constant") return -1;
  if (mode == "edge") return i < 0 ? 0 : length - 1;
  const int64_t period = mode == "wrap" ? length : std::max<int64_t>(2 * (length - 1), 1);
  const int64_t folded = ((i % period) + period) % period;
  return folded < length ? folded : period - folded;
}

// Calls f(position in the padded tensor, position in the unpadded one or -1) for every element of the padded tensor.
template <class F>
void for_each_padded(const Attributes& attributes, const Shape& plain, const Shape& padded, F&& f) {
  const auto& pads = attributes.integers("pads");
  const std::string& mode = attributes.text("mode");
  const int rank = plain.rank();
  const Index dense = strides(plain);
  int64_t at = 0;
  for_each_index(padded, [&](const Index& index) {
    int64_t source = 0;
    for (int axis = 0; axis < rank && source >= 0; ++axis) {
      const int64_t begin = pads[static_cast<size_t>(axis)];
      const int64_t end = pads[static_cast<size_t>(axis + rank)];
      const int64_t cropped = std::max<int64_t>(-begin, 0);
      const int64_t length = plain[axis] - cropped - std::max<int64_t>(-end, 0);
      const int64_t i = source_of(index[static_cast<size_t>(axis)] - std::max<int64_t>(begin, 0), length, mode);
      source = i < 0 ? -1 : source + (cropped + i) * dense[static_cast<size_t>(axis)];
    }
    f(at++, source);
  });
}

}  // namespace

void Slice(const KernelCall& call) {
  const TensorView& x = call.inputs[0];
  const TensorView& y = call.outputs[0];
  for_each_sliced(call.attributes, x.shape, y.shape,
                  [&](int64_t at, int64_t source) { copy_element(y, at, x, source); });
}

void SliceGrad(const KernelCall& call) {
  const TensorView& dy = call.inputs[0];
  const TensorView& dx = call.outputs[0];
  fill_zero(dx);
  for_each_sliced(call.attributes, dx.shape, dy.shape,
                  [&](int64_t at, int64_t source) { copy_element(dx, source, dy, at); });
}

void Pad(const KernelCall& call) {
  const TensorView& x = call.inputs[0];
  const TensorView& y = call.outputs[0];
  const double value = call.attributes.number("value");
  for_each_padded(call.attributes, x.shape, y.shape, [&](int64_t at, int64_t source) {
    if (source < 0) {
      set_number(y, at, value);
    } else {
      copy_element(y, at, x, source);
    }
  });
}

void PadGrad(const KernelCall& call) {
  const TensorView& dx = call.outputs[0];
  const std::vector<double> dy = load_numbers(call.inputs[0]);
  std::vector<double> sums(static_cast<size_t>(dx.shape.elements()));
  for_each_padded(call.attributes, dx.shape, call.inputs[0].shape, [&](int64_t at, int64_t source) {
    if (source >= 0) sums[static_cast<size_t>(source)] += dy[static_cast<size_t>(at)];
  });
  store_all(dx, sums);
}

}  // namespace mpc::reference
