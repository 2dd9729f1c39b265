// Resize and its gradient. Coordinates and sums are f64, as in the reference.

#include <vector>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/axis_by_axis.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/views.h"
#include "executor/functors/resample.h"

namespace mpc::cuda {
namespace {

using functors::ResizedAxis;
using functors::Taps;

/// The gradient along one dimension.
struct GradientAxis {
  ResizedAxis axis;
  int64_t from() const { return axis.resized; }
  int64_t to() const { return axis.extent; }
  /// How much of x[mine] is in coordinate `i` of y.
  MPC_DEVICE double weight(int64_t i, int64_t mine) const {
    const Taps taps = axis.taps_of(i);
    if (!taps.is_inside) return 0;
    if (taps.left == mine) return 1 - taps.rest;
    return taps.left + 1 == mine ? taps.rest : 0.0;
  }
};

struct ResizedAxes {
  int rank = 0;
  ResizedAxis axis[kMaxRank];
};

struct Resample {
  const void* x;
  void* y;
  DType dtype;
  int bytes;
  ResizedAxes axes;
  bool is_nearest;
  double outside;
  MPC_DEVICE void operator()(int64_t i) const {
    int64_t rest = i;
    int64_t step = 1;
    int64_t begin = 0;
    // The dimensions that mix two neighbours, the last one first.
    int mixed = 0;
    int64_t steps[kMaxRank];
    double parts[kMaxRank];
    for (int d = axes.rank - 1; d >= 0; --d) {
      const ResizedAxis& axis = axes.axis[d];
      const Taps taps = axis.taps_of(rest % axis.resized);
      rest /= axis.resized;
      if (!taps.is_inside) return DoubleOut{y, dtype}.set(i, outside);
      begin += taps.left * step;
      if (taps.rest != 0) {
        steps[mixed] = step;
        parts[mixed] = taps.rest;
        ++mixed;
      }
      step *= axis.extent;
    }
    if (is_nearest) return copy_element(y, i, x, begin, bytes);
    double sum = 0;
    for (int corner = 0; corner < 1 << mixed; ++corner) {
      double weight = 1;
      int64_t at = begin;
      for (int k = mixed - 1; k >= 0; --k) {
        const bool is_right = (corner >> k & 1) != 0;
        weight *= is_right ? parts[k] : 1 - parts[k];
        at += is_right ? steps[k] : 0;
      }
      sum += weight * DoubleIn{x, dtype}[at];
    }
    DoubleOut{y, dtype}.set(i, sum);
  }
};

}  // namespace

KernelOrReason resize(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& y = node.outputs[0].shape;
  Resample body{};
  body.dtype = output_dtype(node, 0);
  body.bytes = element_bytes(node);
  for (const ResizedAxis& axis : functors::resized_axes(*node.attributes, node.inputs[0].shape, y))
    body.axes.axis[body.axes.rank++] = axis;
  body.is_nearest = node.attributes->text("mode") == "nearest";
  body.outside = node.attributes->number("extrapolation_value");
  const int64_t count = y.elements();
  return function_kernel("cuda:resample", [=](const Launch& launch) {
    Resample bound = body;
    bound.x = launch.inputs[0];
    bound.y = launch.outputs[0];
    for_each(launch.stream, count, bound, "Resize");
  });
}

KernelOrReason resize_grad(const executor::NodeSpec& node, const MakeOptions&) {
  std::vector<GradientAxis> axes;
  for (const ResizedAxis& axis : functors::resized_axes(*node.attributes, node.outputs[0].shape, node.inputs[0].shape))
    axes.push_back({axis});
  return axis_by_axis(node, std::move(axes));
}

}  // namespace mpc::cuda
