#pragma once

#include <vector>

#include "passes/place/evaluate.h"

namespace mpc::place {

enum class Objective : uint8_t { throughput, latency, devices, memory };

/// What the objective makes small: seconds of the most loaded device (throughput) or of the critical path (latency,
/// devices), or the largest share of its capacity that a device holds (memory).
double value_of(const Problem& problem, const std::vector<int>& device_of_block, Objective objective);

/// What refinement minimizes: bytes over capacity first, then unused devices, then the objective's value.
struct Score {
  int64_t overflow_bytes = 0;
  int unused_devices = 0;
  double value = 0;
  int64_t sent_bytes = 0;  // decides between equals
  auto operator<=>(const Score&) const = default;
};
Score score(const Problem& problem, const std::vector<int>& device_of_block, Objective objective);

/// Local improvement: moves single blocks, and runs of neighbouring blocks at a cut, to another device as long as the
/// score falls; first improvement in block order, until a sweep finds none or `most_evaluations` were spent. Pins are
/// obeyed. Deterministic. O(most_evaluations * (blocks + tensors)).
std::vector<int> refine(const Problem& problem, std::vector<int> device_of_block, Objective objective,
                        int most_evaluations);

}  // namespace mpc::place
