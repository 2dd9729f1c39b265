// Resize and its gradient: every coordinate of y along a dimension is made of one (nearest) or two (linear) coordinates
// of x. Coordinates and sums are f64, as in the reference.

#include <cmath>
#include <string>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/axis_by_axis.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/views.h"

namespace mpc::cuda {
namespace {

enum class Coordinates : uint8_t {
  half_pixel,
  align_corners,
  asymmetric,
  pytorch_half_pixel,
  half_pixel_symmetric,
  tf_crop_and_resize
};
enum class Nearest : uint8_t { floor, ceil, prefer_ceil, prefer_floor };

/// What one coordinate of y is made of: (1 - rest) x[left] + rest x[left + 1]; nothing when it is extrapolated.
struct Taps {
  int64_t left;
  double rest;
  bool is_inside;
};

/// One dimension.
struct ResizedAxis {
  int64_t extent;   // of x
  int64_t resized;  // of y
  double scale;
  double begin;  // the region of interest
  double end;
  Coordinates coordinates;
  bool is_nearest;
  Nearest nearest;

  int64_t from() const { return resized; }
  int64_t to() const { return extent; }
  /// How much of x[mine] is in coordinate `i` of y.
  MPC_DEVICE double weight(int64_t i, int64_t mine) const {
    const Taps taps = taps_of(i);
    if (!taps.is_inside) return 0;
    if (taps.left == mine) return 1 - taps.rest;
    return taps.left + 1 == mine ? taps.rest : 0.0;
  }

  /// The coordinate of x, as a real number, at coordinate `i` of y.
  MPC_DEVICE double source(int64_t i) const {
    const double x = static_cast<double>(i);
    const double length = static_cast<double>(extent);
    const double scaled_length = scale * length;  // before it was rounded to `resized`
    const double half_pixel = (x + 0.5) / scale - 0.5;
    switch (coordinates) {
      case Coordinates::align_corners:
        return scaled_length == 1 ? 0.0 : x * (length - 1) / (scaled_length - 1);
      case Coordinates::asymmetric:
        return x / scale;
      case Coordinates::pytorch_half_pixel:
        return scaled_length == 1 ? 0.0 : half_pixel;
      case Coordinates::half_pixel_symmetric:
        return length / 2 * (1 - static_cast<double>(resized) / scaled_length) + half_pixel;
      case Coordinates::tf_crop_and_resize:
        if (scaled_length == 1) return (begin + end) / 2 * (length - 1);
        return begin * (length - 1) + x * (end - begin) * (length - 1) / (scaled_length - 1);
      default:
        return half_pixel;
    }
  }

  MPC_DEVICE double rounded(double coordinate) const {
    const double below = std::floor(coordinate);
    const double rest = coordinate - below;
    if (rest == 0 || nearest == Nearest::floor) return below;
    if (nearest == Nearest::ceil) return below + 1;
    const bool is_up = nearest == Nearest::prefer_ceil ? rest >= 0.5 : rest > 0.5;
    return is_up ? below + 1 : below;
  }

  MPC_DEVICE Taps taps_of(int64_t i) const {
    const double last = static_cast<double>(extent - 1);
    double coordinate = source(i);
    if (coordinates == Coordinates::tf_crop_and_resize && !(coordinate >= 0 && coordinate <= last))
      return {0, 0, false};
    if (!(coordinate >= 0)) coordinate = 0;
    if (coordinate > last) coordinate = last;
    if (is_nearest) {
      const double at = rounded(coordinate);
      return {static_cast<int64_t>(at < last ? at : last), 0, true};
    }
    const double below = std::floor(coordinate);
    return {static_cast<int64_t>(below), coordinate - below, true};
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

Coordinates coordinates_of(const std::string& mode) {
  if (mode == "align_corners") return Coordinates::align_corners;
  if (mode == "asymmetric") return Coordinates::asymmetric;
  if (mode == "pytorch_half_pixel") return Coordinates::pytorch_half_pixel;
  if (mode == "half_pixel_symmetric") return Coordinates::half_pixel_symmetric;
  return mode == "tf_crop_and_resize" ? Coordinates::tf_crop_and_resize : Coordinates::half_pixel;
}

Nearest nearest_of(const std::string& mode) {
  if (mode == "floor") return Nearest::floor;
  if (mode == "ceil") return Nearest::ceil;
  return mode == "round_prefer_ceil" ? Nearest::prefer_ceil : Nearest::prefer_floor;
}

ResizedAxes resized_axes(const Attributes& attributes, const Shape& x, const Shape& y) {
  const Coordinates coordinates = coordinates_of(attributes.text("coordinate_transformation_mode"));
  ResizedAxes axes;
  axes.rank = x.rank();
  for (int d = 0; d < axes.rank; ++d) {
    const size_t at = static_cast<size_t>(d);
    ResizedAxis& axis = axes.axis[d];
    axis = {};
    axis.extent = x[d];
    axis.resized = y[d];
    axis.scale = attributes.numbers("scales")[at];
    axis.coordinates = coordinates;
    axis.is_nearest = attributes.text("mode") == "nearest";
    axis.nearest = nearest_of(attributes.text("nearest_mode"));
    if (coordinates == Coordinates::tf_crop_and_resize) {
      const auto& roi = attributes.numbers("roi");
      axis.begin = roi[at];
      axis.end = roi[roi.size() / 2 + at];
    }
  }
  return axes;
}

}  // namespace

KernelOrReason resize(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& y = node.outputs[0].shape;
  Resample body{};
  body.dtype = output_dtype(node, 0);
  body.bytes = element_bytes(node);
  body.axes = resized_axes(*node.attributes, node.inputs[0].shape, y);
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
  const ResizedAxes axes = resized_axes(*node.attributes, node.outputs[0].shape, node.inputs[0].shape);
  return axis_by_axis(node, std::vector<ResizedAxis>(axes.axis, axes.axis + axes.rank));
}

}  // namespace mpc::cuda
