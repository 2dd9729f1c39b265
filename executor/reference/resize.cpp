#include <vector>

#include "executor/functors/resample.h"
#include "executor/reference/support.h"

// Resize, by tables of what each coordinate is made of (executor/functors/resample.h).

namespace mpc::reference {
namespace {

struct Sample {
  int64_t at;
  double weight;
};

/// What one coordinate of y is made of; nothing when it lies outside the region of interest (extrapolated).
using Samples = std::vector<Sample>;

Samples samples_at(const functors::ResizedAxis& axis, int64_t i) {
  const functors::Taps taps = axis.taps_of(i);
  if (!taps.is_inside) return {};
  if (taps.rest == 0) return {{taps.left, 1.0}};
  return {{taps.left, 1 - taps.rest}, {taps.left + 1, taps.rest}};
}

/// For every dimension, what each coordinate of y is made of.
std::vector<std::vector<Samples>> all_samples(const Attributes& attributes, const Shape& x, const Shape& y) {
  std::vector<std::vector<Samples>> table;
  for (const functors::ResizedAxis& axis : functors::resized_axes(attributes, x, y)) {
    std::vector<Samples>& row = table.emplace_back();
    for (int64_t i = 0; i < axis.resized; ++i) row.push_back(samples_at(axis, i));
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
