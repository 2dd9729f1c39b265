#pragma once

#include <cstdint>

#include "compiler/base/half.h"

// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3,
// SC 2011). The numbers of an element depend only on what names it, never on devices, threads or order.

namespace mpc::functors {

/// One block of four random words.
struct PhiloxBlock {
  uint32_t words[4];
};

MPC_HD inline PhiloxBlock philox4x32_10(PhiloxBlock counter, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter.words[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter.words[2];
    counter = {{static_cast<uint32_t>(p1 >> 32) ^ counter.words[1] ^ k0, static_cast<uint32_t>(p1),
                static_cast<uint32_t>(p0 >> 32) ^ counter.words[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

/// Names the random numbers of one random op in one micro-batch of one step (of which the low 32 bits count).
struct RandomStream {
  uint64_t key;
  uint32_t step;
  uint32_t microbatch;
};

/// The key mixes the session's seed and the number of the op in the model (finalizer of splitmix64), so that
/// neighbouring ops do not get neighbouring keys.
MPC_HD inline RandomStream random_stream(uint64_t seed, int64_t rng, int64_t step, int32_t microbatch) {
  uint64_t z = seed + 0x9E3779B97F4A7C15u * (static_cast<uint64_t>(rng) + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return {z ^ (z >> 31), static_cast<uint32_t>(step), static_cast<uint32_t>(microbatch)};
}

/// The random words of elements 4 * block .. 4 * block + 3.
MPC_HD inline PhiloxBlock random_block(const RandomStream& stream, uint64_t block) {
  return philox4x32_10(
      {{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), stream.microbatch, stream.step}}, stream.key);
}

/// Dropout keeps an element when its word is at least this: round(ratio * 2^32). @pre 0 <= ratio < 1.
MPC_HD inline uint32_t dropout_threshold(double ratio) {
  const double scaled = ratio * 4294967296.0 + 0.5;
  return scaled >= 4294967295.0 ? 0xFFFFFFFFu : static_cast<uint32_t>(scaled);
}

}  // namespace mpc::functors
