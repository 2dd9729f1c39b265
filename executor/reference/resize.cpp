#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "executor/reference/support.h"

// Resize: every coordinate of y along a dimension is made of one (nearest) or two (linear) coordinates of x.

namespace mpc::reference {
namespace {

struct Sample {
  int64_t at;
  double weight;
};

/// What one coordinate of y is made of; nothing when it lies outside the region of interest (extrapolated).
using Samples = std::vector<Sample>;

/// The coordinate of x, as a real number, at coordinate `i` of y. `roi` are the start and end of the region of
/// interest.
double source_coordinate(const Attributes& attributes, int axis, int64_t extent, int64_t resized, int64_t i) {
  const std::string& mode = attributes.text("coordinate_transformation_mode");
  const double scale = attributes.numbers("scales")[static_cast<size_t>(axis)];
  const double x = static_cast<double>(i);
  const double length = static_cast<double>(extent);
  const double scaled_length = scale * length;  // before it was rounded to `resized`
  const double half_pixel = (x + 0.5) / scale - 0.5;
  if (mode == "align_corners") return scaled_length == 1 ? 0.0 : x * (length - 1) / (scaled_length - 1);
  if (mode == "asymmetric") return x / scale;
  if (mode == "pytorch_half_pixel") return scaled_length == 1 ? 0.0 : half_pixel;
  if (mode == "half_pixel_symmetric") {
    const double adjustment = static_cast<double>(resized) / scaled_length;
    return length / 2 * (1 - adjustment) + half_pixel;
  }
  if (mode == "tf_crop_and_resize") {
    const auto& roi = attributes.numbers("roi");
    const double start = roi[static_cast<size_t>(axis)];
    const double end = roi[roi.size() / 2 + static_cast<size_t>(axis)];
    if (scaled_length == 1) return (start + end) / 2 * (length - 1);
    return start * (length - 1) + x * (end - start) * (length - 1) / (scaled_length - 1);
  }
  return half_pixel;
}

double nearest_coordinate(const std::string& mode, double coordinate) {
  const double below = std::floor(coordinate);
  const double rest = coordinate - below;
  if (rest == 0 || mode == "floor") return below;
  if (mode == "ceil") return below + 1;
  if (mode == "round_prefer_ceil") return rest < 0.5 ? below : below + 1;
  return rest <= 0.5 ? below : below + 1;
}

Samples samples_at(const Attributes& attributes, int axis, int64_t extent, int64_t resized, int64_t i) {
  const double last = static_cast<double>(extent - 1);
  double coordinate = source_coordinate(attributes, axis, extent, resized, i);
  const bool is_crop = attributes.text("coordinate_transformation_mode") == "tf_crop_and_resize";
  if (is_crop && !(coordinate >= 0 && coordinate <= last)) return {};
  if (!(coordinate >= 0)) coordinate = 0;
  coordinate = std::min(coordinate, last);
  if (attributes.text("mode") == "nearest") {
    const double nearest = nearest_coordinate(attributes.text("nearest_mode"), coordinate);
    return {{static_cast<int64_t>(std::min(nearest, last)), 1.0}};
  }
  const double below = std::floor(coordinate);
  const double rest = coordinate - below;
  const int64_t left = static_cast<int64_t>(below);
  if (rest == 0) return {{left, 1.0}};
  return {{left, 1 - rest}, {left + 1, rest}};
}

/// For every dimension, what each coordinate of y is made of.
std::vector<std::vector<Samples>> all_samples(const Attributes& attributes, const Shape& x, const Shape& y) {
  std::vector<std::vector<Samples>> table(static_cast<size_t>(x.rank()));
  for (int axis = 0; axis < x.rank(); ++axis) {
    for (int64_t i = 0; i < y[axis]; ++i) {
      table[static_cast<size_t>(axis)].push_back(samples_at(attributes, axis, x[axis], y[axis], i));
    }
  }
  return table;
}

/// The elements of x that the element of y at `index` is made of, with their weights; empty when it is extrapolated.
Samples combine(const std::vector<std::vector<Samples>>& table, const Shape& x, const Index& index) {
  Samples combined = {{0, 1.0}};
  for (size_t axis = 0; axis < table.size(); ++axis) {
    Samples longer;
    for (const Sample& outer : combined) {
      for (const Sample& inner : table[axis][static_cast<size_t>(index[axis])]) {
        longer.push_back({outer.at * x[static_cast<int>(axis)] + inner.at, outer.weight * inner.weight});
      }
    }
    combined = std::move(longer);
  }
  return combined;
}

}  // namespace

void Resize(const KernelCall& call) {
  const TensorView& x = call.inputs[0];
  const TensorView& y = call.outputs[0];
  if (y.shape.elements() == 0) return;
  const auto table = all_samples(call.attributes, x.shape, y.shape);
  const bool is_nearest = call.attributes.text("mode") == "nearest";
  int64_t i = 0;
  for_each_index(y.shape, [&](const Index& index) {
    const Samples samples = combine(table, x.shape, index);
    if (samples.empty()) {
      set_number(y, i, call.attributes.number("extrapolation_value"));
    } else if (is_nearest) {
      copy_element(y, i, x, samples[0].at);
    } else {
      double sum = 0;
      for (const Sample& sample : samples) sum += sample.weight * number(x, sample.at);
      set_number(y, i, sum);
    }
    ++i;
  });
}

void ResizeGrad(const KernelCall& call) {
  const TensorView& dy = call.inputs[0];
  const Shape& x_shape = call.outputs[0].shape;
  std::vector<double> dx(static_cast<size_t>(x_shape.elements()), 0.0);
  if (dy.shape.elements() > 0) {
    const auto table = all_samples(call.attributes, x_shape, dy.shape);
    int64_t i = 0;
    for_each_index(dy.shape, [&](const Index& index) {
      const double upstream = number(dy, i++);
      for (const Sample& sample : combine(table, x_shape, index))
        dx[static_cast<size_t>(sample.at)] += sample.weight * upstream;
    });
  }
  store_all(call.outputs[0], dx);
}

}  // namespace mpc::reference
