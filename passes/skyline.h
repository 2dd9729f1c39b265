#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace mpc {

inline constexpr int64_t kEndless = std::numeric_limits<int64_t>::max();

using Order = std::vector<size_t>;  // of blocks

struct Packing {
  int64_t bytes = kEndless;
  std::vector<int64_t> offsets;  // by block; -1: not placed
};

/// A block with its life in places of the sorted moments, from `begin` up to before `end`.
struct Item {
  int64_t bytes = 0;
  int begin = 0;
  int end = 0;
};

/// Places blocks at the lowest level that is free for the longest: the first in the order that fits there; best fit
/// over lifetimes when the order is the longest life first. O(n^2) at worst.
/// @param moments  how many places of moments there are
Packing pack_by_skyline(const std::vector<Item>& items, int moments, const Order& order);

}  // namespace mpc
