#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "passes/pack.h"

namespace {

using namespace mpc;

/// Blocks of a few sizes and any lives, the same ones for the same seed on any machine.
std::vector<Block> random_blocks(uint32_t seed, int count, int moments) {
  std::mt19937 random(seed);
  const auto below = [&](int limit) { return static_cast<int64_t>(random() % static_cast<uint32_t>(limit)); };
  std::vector<Block> blocks;
  for (int i = 0; i < count; ++i) {
    const int64_t begin = below(moments);
    blocks.push_back({256 * (1 + below(40)), begin, begin + below(moments / 4)});
  }
  return blocks;
}

bool live_together(const Block& a, const Block& b) {
  return a.begin <= b.end && b.begin <= a.end;
}
bool overlap(const Block& a, const Block& b) {
  return a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
}

}  // namespace

TEST_CASE("pack: blocks that live together never overlap, and the result is where the highest ends") {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::vector<Block> blocks = random_blocks(seed, 1 + static_cast<int>(seed) / 2, 8 + static_cast<int>(seed) % 30);
    const int64_t bytes = pack(blocks, largest_live(blocks).bytes);
    int64_t highest = 0;
    for (size_t a = 0; a < blocks.size(); ++a) {
      CHECK(blocks[a].offset >= 0);
      highest = std::max(highest, blocks[a].offset + blocks[a].bytes);
      for (size_t b = 0; b < a; ++b)
        CHECK_FALSE((live_together(blocks[a], blocks[b]) && overlap(blocks[a], blocks[b])));
    }
    CHECK(bytes == highest);
    CHECK(bytes >= largest_live(blocks).bytes);
  }
}

TEST_CASE("pack: the bound is the largest sum at one moment, ends included") {
  // 100 and 20 meet at moment 3, 20 and 50 at moment 5.
  const std::vector<Block> blocks = {{100, 0, 3}, {20, 3, 5}, {50, 5, 9}};
  CHECK(largest_live(blocks).bytes == 120);
  CHECK(largest_live(blocks).moment == 3);
  CHECK(largest_live({}).bytes == 0);
}

TEST_CASE("pack: a forward and a backward pass, nested like brackets, take what lives at once and no more") {
  // Activation i lives from its making to its gradient; the gradients of two neighbours live together.
  std::vector<Block> blocks;
  constexpr int64_t kLayers = 40;
  for (int64_t i = 0; i < kLayers; ++i) {
    blocks.push_back({256 * (1 + i * i % 7), i, 2 * kLayers - i});
    blocks.push_back({256 * (1 + i * 3 % 5), 2 * kLayers - i - 1, 2 * kLayers - i});
  }
  CHECK(pack(blocks, largest_live(blocks).bytes) == largest_live(blocks).bytes);
}

TEST_CASE("pack: one order in time is not enough where a long life begins between short ones") {
  // In time: a at 0, b at 2, c at 3, and d (4) finds gaps of 2 (where a was) and 1 (above c): 8 bytes. 6 are enough.
  std::vector<Block> blocks = {{2, 0, 1}, {1, 0, 5}, {1, 1, 2}, {4, 3, 5}};
  CHECK(pack(blocks, largest_live(blocks).bytes) == largest_live(blocks).bytes);
}
