#include "compiler/base/random.h"

#include <array>
#include <set>

#include <doctest/doctest.h>

namespace mpc {
namespace {

std::array<uint32_t, 4> words(PhiloxBlock block) {
  return {block.word[0], block.word[1], block.word[2], block.word[3]};
}

TEST_CASE("random: Philox4x32-10 gives the known answers of Random123") {
  CHECK(words(philox4x32({{0, 0, 0, 0}}, {{0, 0}})) ==
        std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  constexpr uint32_t kOnes = 0xffffffffu;
  CHECK(words(philox4x32({{kOnes, kOnes, kOnes, kOnes}}, {{kOnes, kOnes}})) ==
        std::array<uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  CHECK(words(philox4x32({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, {{0xa4093822u, 0x299f31d0u}})) ==
        std::array<uint32_t, 4>{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("random: mix_bits is the splitmix64 sequence") {
  // The first two outputs of splitmix64 seeded with 0.
  CHECK(mix_bits(0) == 0xe220a8397b1dcdafu);
  CHECK(mix_bits(0x9E3779B97F4A7C15u) == 0x6e789e6aa1b965f4u);
}

TEST_CASE("random: a word depends on the element, and the block holds the words of its four elements") {
  const RandomStream stream{.seed = 7, .user = 3, .step = 11, .microbatch = 2};
  for (int64_t block : {int64_t{0}, int64_t{5}, (int64_t{1} << 40) + 1}) {
    for (int lane = 0; lane < 4; ++lane) {
      CHECK(random_word(stream, block * 4 + lane) == random_block(stream, block).word[lane]);
    }
  }
}

TEST_CASE("random: seed, user, step, micro-batch and position each change the numbers") {
  const RandomStream base{.seed = 1, .user = 1, .step = 1, .microbatch = 1};
  std::set<std::array<uint32_t, 4>> seen;
  seen.insert(words(random_block(base, 0)));
  for (int bit = 0; bit < 64; ++bit) {
    RandomStream other = base;
    other.seed ^= uint64_t{1} << bit;
    CHECK(seen.insert(words(random_block(other, 0))).second);
    other = base;
    other.user ^= uint64_t{1} << bit;
    CHECK(seen.insert(words(random_block(other, 0))).second);
  }
  for (int bit = 0; bit < 48; ++bit) {
    RandomStream other = base;
    other.step ^= int64_t{1} << bit;
    CHECK(seen.insert(words(random_block(other, 0))).second);
  }
  for (int bit = 0; bit < 45; ++bit) CHECK(seen.insert(words(random_block(base, int64_t{1} << bit))).second);
  for (int bit = 0; bit < 31; ++bit) {
    RandomStream other = base;
    other.microbatch ^= int32_t{1} << bit;
    CHECK(seen.insert(words(random_block(other, 0))).second);
  }
}

TEST_CASE("random: the streams of ops have the bits they always had, so that a trained model can be trained again") {
  // From the first version of the generator; also the key of neighbouring ops, and steps beyond 32 bits, must differ.
  CHECK(words(random_block(op_stream(0, 0, 0, 0), 0)) ==
        std::array<uint32_t, 4>{0xa9e39636u, 0x24cbd2fbu, 0x7d5ec3beu, 0x40f0c400u});
  CHECK(words(random_block(op_stream(7, 2, 600, 3), 5)) ==
        std::array<uint32_t, 4>{0x2e672080u, 0xd59f51feu, 0x1b3fd73fu, 0x4ea4b0e4u});
  CHECK(words(random_block(op_stream(7, 2, 600, 3), 5)) != words(random_block(op_stream(7, 3, 600, 3), 5)));
  CHECK(words(random_block(op_stream(7, 2, 600, 3), 5)) !=
        words(random_block(op_stream(7, 2, 600 + (int64_t{1} << 32), 3), 5)));
}

TEST_CASE("random: dropout's threshold is its share of all words") {
  CHECK(dropout_threshold(0) == 0);
  CHECK(dropout_threshold(0.25) == 1u << 30);
  CHECK(dropout_threshold(1 - 0x1p-40) == 0xFFFFFFFFu);
}

TEST_CASE("random: unit_float covers [0, 1) and its mean is one half") {
  CHECK(unit_float(0) == 0.0f);
  CHECK(unit_float(0xffffffffu) == 1.0f - 0x1p-24f);
  double sum = 0;
  constexpr int kCount = 100000;
  for (int i = 0; i < kCount; ++i) sum += unit_float(random_word({.seed = 42}, i));
  // The mean of n uniform numbers deviates by sqrt(1 / 12n) = 0.0009; five times that.
  CHECK(sum / kCount == doctest::Approx(0.5).epsilon(0.01));
}

}  // namespace
}  // namespace mpc
