#pragma once

#include <vector>

#include "compiler/plan/plan.h"
#include "passes/schedule/schedule.h"

// Pipelines without a model: segments with chosen seconds.

namespace mpc::test {

/// Seconds of a stage per micro-batch.
struct StageSeconds {
  double forward = 1;
  double backward = 1;
  double weight = 1;
};

/// Stages in a chain. Every micro-batch keeps one byte on a stage from its forward to its last gradient task.
struct Pipeline {
  std::vector<StageSeconds> stages;
  std::vector<int> device_of_stage;
  double transfer_s = 0;  // between neighbours on different devices

  int device_count() const;
  Cuts cuts() const;
};

/// One stage of `seconds` per device.
Pipeline uniform_pipeline(int devices, StageSeconds seconds);
/// `chunks` stages per device in turn, which share the seconds.
Pipeline looped_pipeline(int devices, int chunks, StageSeconds seconds);
/// Two stages per device, the second ones in reverse order, which share the seconds.
Pipeline v_pipeline(int devices, StageSeconds seconds);

/// The plan that executes the schedule: a node per segment that reads and writes nothing, events for dependencies
/// between queues, a transfer of no bytes where a dependency takes time.
Plan plan_of(const Segments& segments, int microbatches, const Schedule& schedule);

}  // namespace mpc::test
