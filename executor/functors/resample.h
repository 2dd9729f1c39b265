#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "compiler/base/attributes.h"
#include "compiler/base/half.h"
#include "compiler/base/shape.h"

// Where Resize takes its numbers from, shared by every backend: every coordinate of y along a dimension is made of one
// (nearest) or two (linear) coordinates of x.

namespace mpc::functors {

/// What one coordinate of y is made of: (1 - rest) x[left] + rest x[left + 1]; nothing when it lies outside of the
/// region of interest (extrapolated).
struct Taps {
  int64_t left;
  double rest;
  bool is_inside;
};

/// One dimension of a Resize. Plain data: kernels of a GPU take it as a parameter.
struct ResizedAxis {
  enum class Coordinates : uint8_t {
    half_pixel,
    align_corners,
    asymmetric,
    pytorch_half_pixel,
    half_pixel_symmetric,
    tf_crop_and_resize
  };
  enum class Nearest : uint8_t { floor, ceil, prefer_ceil, prefer_floor };

  int64_t extent;   // of x
  int64_t resized;  // of y
  double scale;
  double begin;  // the region of interest
  double end;
  Coordinates coordinates;
  bool is_nearest;
  Nearest nearest;

  MPC_HD Taps taps_of(int64_t i) const {
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

 private:
  /// The coordinate of x, as a real number, at coordinate `i` of y.
  MPC_HD double source(int64_t i) const {
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

  MPC_HD double rounded(double coordinate) const {
    const double below = std::floor(coordinate);
    const double rest = coordinate - below;
    if (rest == 0 || nearest == Nearest::floor) return below;
    if (nearest == Nearest::ceil) return below + 1;
    const bool is_up = nearest == Nearest::prefer_ceil ? rest >= 0.5 : rest > 0.5;
    return is_up ? below + 1 : below;
  }
};

inline ResizedAxis::Coordinates coordinates_of(const std::string& mode) {
  using Coordinates = ResizedAxis::Coordinates;
  if (mode == "align_corners") return Coordinates::align_corners;
  if (mode == "asymmetric") return Coordinates::asymmetric;
  if (mode == "pytorch_half_pixel") return Coordinates::pytorch_half_pixel;
  if (mode == "half_pixel_symmetric") return Coordinates::half_pixel_symmetric;
  return mode == "tf_crop_and_resize" ? Coordinates::tf_crop_and_resize : Coordinates::half_pixel;
}

inline ResizedAxis::Nearest nearest_of(const std::string& mode) {
  using Nearest = ResizedAxis::Nearest;
  if (mode == "floor") return Nearest::floor;
  if (mode == "ceil") return Nearest::ceil;
  return mode == "round_prefer_ceil" ? Nearest::prefer_ceil : Nearest::prefer_floor;
}

/// The dimensions of a Resize from shape `x` to shape `y`, by the operator's attributes (compiler/ops/resize.cpp).
inline std::vector<ResizedAxis> resized_axes(const Attributes& attributes, const Shape& x, const Shape& y) {
  const ResizedAxis::Coordinates coordinates = coordinates_of(attributes.text("coordinate_transformation_mode"));
  std::vector<ResizedAxis> axes;
  for (int d = 0; d < x.rank(); ++d) {
    const size_t at = static_cast<size_t>(d);
    ResizedAxis axis{};
    axis.extent = x[d];
    axis.resized = y[d];
    axis.scale = attributes.numbers("scales")[at];
    axis.coordinates = coordinates;
    axis.is_nearest = attributes.text("mode") == "nearest";
    axis.nearest = nearest_of(attributes.text("nearest_mode"));
    if (coordinates == ResizedAxis::Coordinates::tf_crop_and_resize) {
      const auto& roi = attributes.numbers("roi");
      axis.begin = roi[at];
      axis.end = roi[roi.size() / 2 + at];
    }
    axes.push_back(axis);
  }
  return axes;
}

}  // namespace mpc::functors
