#pragma once

#include <optional>

#include "executor/backend.h"
#include "executor/host/arena.h"
#include "executor/measure_operands.h"

namespace mpc::executor {

/// Times kernels of the host.
class HostKernelTimer {
 public:
  /// Seconds of one call of the fastest host kernel of `spec` (the reference kernel when there is none): the median of
  /// several calls, after one that is not counted. With one thread it is the thread's CPU time, which a busy machine
  /// does not distort; with more, the clock's. Operands have random content. What is updated in place is so here.
  /// @throws Error(M070) when the operands do not fit in memory; errors of the kernel.
  double seconds_of(const NodeSpec& spec, int64_t workspace_bytes, const MeasureOptions& options);

 private:
  std::optional<Arena> memory_;  // of several copies of operands, kept for the next node
};

}  // namespace mpc::executor
