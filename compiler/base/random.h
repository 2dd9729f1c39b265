#pragma once

#include <cstdint>

#include "compiler/base/half.h"

// Random numbers that are a function of their position, not of the order in which they are drawn: every device and
// every kernel gets the same number for the same element, however the work is split. Source: J. Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).

namespace mpc {

/// Four 32-bit words: a Philox counter, or the block of random words it gives.
struct PhiloxBlock {
  uint32_t word[4];
};

/// The key of a Philox generator.
struct PhiloxKey {
  uint32_t word[2];
};

/// Philox4x32 with 10 rounds: the 128 random bits at `counter` of the sequence that `key` names.
MPC_HD inline PhiloxBlock philox4x32(PhiloxBlock counter, PhiloxKey key) {
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key.word[0], static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key.word[1],
                static_cast<uint32_t>(product0)}};
    key.word[0] += 0x9E3779B9u;  // Weyl sequence: the golden ratio
    key.word[1] += 0xBB67AE85u;  // and sqrt(3) - 1
  }
  return counter;
}

/// A bijection of 64-bit words that spreads nearby numbers apart. Source: S. Vigna, splitmix64.
MPC_HD inline uint64_t mix_bits(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// Names one random tensor: the session's seed, who draws (the `rng` attribute of a Dropout, say), and when.
struct RandomStream {
  uint64_t seed = 0;
  uint64_t user = 0;
  int64_t step = 0;        // < 2^48
  int32_t microbatch = 0;  // index within the step
};

/// The four random words of elements 4 * block .. 4 * block + 3 of a stream. @pre 0 <= block < 2^48.
MPC_HD inline PhiloxBlock random_block(const RandomStream& stream, int64_t block) {
  const uint64_t key = stream.seed ^ mix_bits(stream.user);
  const uint64_t step = static_cast<uint64_t>(stream.step);
  const uint64_t position = static_cast<uint64_t>(block);
  // A tensor has fewer than 2^47 elements, so the upper half of the second word is free for the upper bits of the step.
  const PhiloxBlock counter = {{static_cast<uint32_t>(position),
                                static_cast<uint32_t>(position >> 32) | (static_cast<uint32_t>(step >> 32) << 16),
                                static_cast<uint32_t>(stream.microbatch), static_cast<uint32_t>(step)}};
  return philox4x32(counter, {{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)}});
}

/// The stream of a random op: `rng` is the number of the op in the model. Ops with neighbouring numbers, or sessions
/// with neighbouring seeds, get unrelated keys: seed and number are spread apart together.
MPC_HD inline RandomStream op_stream(uint64_t seed, int64_t rng, int64_t step, int32_t microbatch) {
  return {0, seed + 0x9E3779B97F4A7C15u * static_cast<uint64_t>(rng), step, microbatch};
}

/// Dropout keeps an element when its word is at least this: round(ratio * 2^32). @pre 0 <= ratio < 1.
MPC_HD inline uint32_t dropout_threshold(double ratio) {
  const double scaled = ratio * 4294967296.0 + 0.5;
  return scaled >= 4294967295.0 ? 0xFFFFFFFFu : static_cast<uint32_t>(scaled);
}

/// The random word of one element of a stream. Kernels that walk whole tensors take random_block once per four
/// elements.
MPC_HD inline uint32_t random_word(const RandomStream& stream, int64_t element) {
  return random_block(stream, element >> 2).word[element & 3];
}

/// A random word as a float in [0, 1): its upper 24 bits, so that the result is exact and never 1.
MPC_HD inline float unit_float(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

}  // namespace mpc
