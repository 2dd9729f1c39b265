#pragma once

#include <functional>
#include <limits>

#include "passes/back_half.h"
#include "passes/pack.h"

namespace mpc {

// What is done where the activations of a placement do not fit: some are computed again in the backward pass
// (recompute.h), some wait in host memory (offload.h), or both. Each way is a whole plan, and of those that fit the one
// with the shortest predicted step is taken:
//  - recomputation alone: the cheapest choice that fits;
//  - host memory alone: as few bytes as fit, and some more, because what is free lets copies run beside the work;
//  - both: for each choice of what is computed again, host memory takes the rest. Estimated is the time of the clones
//    plus that of copies as far as it is more than the forward or the backward pass they run beside; the least are
//    made.
// Where host memory takes everything that does not fit without making the step longer, nothing else is tried.

/// What the ways are chosen for.
struct FitRequest {
  const Graph& placed;  // the main graph, placed
  const Cluster& cluster;
  int microbatches = 1;
  const PlanOptions& options;
  double to_beat_s = std::numeric_limits<double>::infinity();  // nothing is tried where no way promises less
};

/// Makes the plan of an attempt: schedule, instructions and offsets, by its placement, `dropped` and `offload_bytes`.
using LowerAttempt = std::function<void(Attempt& attempt, PackEffort effort)>;

/// Replaces `best`, which does not fit, by an attempt that does, or else by the one that exceeds the capacities least.
/// Tries are packed with little effort; the best by each of the three ways is packed well, and then the best is taken.
/// @pre a training graph. Some twenty plans, and as many more as there are choices to compute again that do not fit.
void fit_memory(Attempt& best, const FitRequest& request, const LowerAttempt& lower);

}  // namespace mpc
