#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <vector>

#include "compiler/base/attributes.h"
#include "compiler/base/half.h"
#include "compiler/base/shape.h"

// Convolutions and pools read and write tensors (N, C, d1...), and with the attribute `channels_last` tensors (N,
// d1..., C); a weight is (M, C / group, k1...) or (M, k1..., C / group) then. No model says so: passes/channels_last.h
// does.

namespace mpc {

inline constexpr std::string_view kChannelsLast = "channels_last";

inline bool is_channels_last(const Attributes& attributes) {
  return attributes.has(kChannelsLast) && attributes.flag(kChannelsLast);
}

/// `perm` of the Transpose that makes (N, d1..., C) of (N, C, d1...). @pre rank >= 2.
inline std::vector<int64_t> to_channels_last(int rank) {
  std::vector<int64_t> perm(static_cast<size_t>(rank));
  std::iota(perm.begin(), perm.end(), 0);
  std::rotate(perm.begin() + 1, perm.begin() + 2, perm.end());
  return perm;
}

/// `perm` of the Transpose back. @pre rank >= 2.
inline std::vector<int64_t> to_channels_first(int rank) {
  std::vector<int64_t> perm(static_cast<size_t>(rank));
  std::iota(perm.begin(), perm.end(), 0);
  std::rotate(perm.begin() + 1, perm.end() - 1, perm.end());
  return perm;
}

inline Shape with_channels_last(const Shape& shape) {
  std::vector<int64_t> dims;
  for (const int64_t axis : to_channels_last(shape.rank())) dims.push_back(shape[static_cast<int>(axis)]);
  return Shape(dims);
}

/// (N, C, d1...) of a tensor as a node with these attributes has it. A tensor without channels stays as it is.
inline Shape channels_first_shape(const Attributes& attributes, const Shape& shape) {
  if (!is_channels_last(attributes) || shape.rank() < 2) return shape;
  std::vector<int64_t> dims;
  for (const int64_t axis : to_channels_first(shape.rank())) dims.push_back(shape[static_cast<int>(axis)]);
  return Shape(dims);
}

/// Where the elements of such a tensor lie. A plane is what one n and c have in common, n * C + c.
struct PlaneOrder {
  int64_t channels = 1;
  int64_t positions = 1;  // of a plane
  bool is_last = false;

  PlaneOrder() = default;
  /// @param shape (N, C, d1...), wherever its channels are stored.
  PlaneOrder(const Attributes& attributes, const Shape& shape)
      : channels(shape[1]), positions(shape.elements(2, shape.rank())), is_last(is_channels_last(attributes)) {}

  MPC_HD int64_t at(int64_t plane, int64_t position) const {
    if (!is_last) return plane * positions + position;
    return (plane / channels * positions + position) * channels + plane % channels;
  }
  /// Of the element at `i`.
  MPC_HD int64_t plane_of(int64_t i) const {
    return is_last ? i / (positions * channels) * channels + i % channels : i / positions;
  }
  MPC_HD int64_t position_of(int64_t i) const { return is_last ? i / channels % positions : i % positions; }
};

}  // namespace mpc
