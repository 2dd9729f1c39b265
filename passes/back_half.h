#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "passes/observed.h"
#include "passes/pipeline.h"

namespace mpc {

/// What waits in host memory.
struct Offloaded {
  int64_t values = 0;
  std::vector<int64_t> bytes;  // [device] per micro-batch
  double seconds = 0;          // of copies there and back, per micro-batch, all devices together
};

/// One way to carry out the graphs on the cluster.
struct Attempt {
  Plan plan;
  Placement placement;
  Schedule schedule;
  std::vector<ValueId> dropped;  // of the main graph: computed again in the backward pass
  /// [device] As many bytes of a micro-batch wait in host memory, as far as there are as many that can. Empty: none.
  std::vector<int64_t> offload_bytes;
  Offloaded offloaded;  // what came of that
  std::vector<std::string> notes;
  int64_t excess_bytes = 0;  // above the devices' capacities; 0: it fits
  bool is_of_parts = false;  // placed on parts of devices
  bool is_tight = false;     // the order that the schedule prefers takes more memory than there is
  double step_seconds = 0;   // of the plan when it is synchronized: what the schedule expects, and waits for memory
  /// Is this the better of two ways to lay out a pipeline? Chunks send more often, so they must be clearly shorter.
  bool is_preferred_to(const Attempt& other) const {
    if (excess_bytes != other.excess_bytes) return excess_bytes < other.excess_bytes;
    constexpr double kClearly = 0.98;
    if (is_of_parts == other.is_of_parts) return step_seconds < other.step_seconds;
    return is_of_parts ? step_seconds < kClearly * other.step_seconds : kClearly * step_seconds <= other.step_seconds;
  }
};

/// The plan of the best placement that one search finds, synchronized; with excess_bytes where none fits. Nothing when
/// it would be no better than `rival`, which may be null.
/// @param to_beat_s  of what does not fit only what may get shorter than this is made to fit
/// @throws Error for options that the graphs or the cluster do not allow.
std::optional<Attempt> find_attempt(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options,
                                    const Observed& observed, const Attempt* rival = nullptr,
                                    double to_beat_s = std::numeric_limits<double>::infinity());

/// The best of what several searches find: where the one that was asked for aims at an estimate, others may do better.
/// @throws as find_attempt.
Attempt best_attempt(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options,
                     const Observed& observed);

}  // namespace mpc
