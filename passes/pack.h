#pragma once

#include <cstdint>
#include <span>

namespace mpc {

/// Bytes that must lie in one place from `begin` to `end`.
struct Block {
  int64_t bytes = 0;
  int64_t begin = 0;  // first moment of its life
  int64_t end = 0;    // last moment, too
  int64_t offset = 0;
};

/// The most bytes that live at one moment: no packing takes less.
struct LargestLive {
  int64_t bytes = 0;
  int64_t moment = -1;  // the first one; -1: there are no bytes
};
LargestLive largest_live(std::span<const Block> blocks);

/// How often pack() tries to do better. For one of many plans, of which one will be used, less is enough.
enum class PackEffort : uint8_t { thorough, quick };

/// Gives every block an offset, so that blocks that live at the same moment do not overlap. Deterministic.
/// @param enough_bytes  what need not be improved; largest_live() to try for the least
/// At most O(kMostSteps) steps, for little effort a tenth of them, and O(n log n) where a single try would take more (pack.cpp).
/// @return the bytes up to the end of the highest block.
int64_t pack(std::span<Block> blocks, int64_t enough_bytes, PackEffort effort = PackEffort::thorough);

}  // namespace mpc
