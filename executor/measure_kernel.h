#pragma once

#include <cstdint>

#include "executor/backend.h"
#include "executor/measure_operands.h"

namespace mpc::executor {

/// Seconds of one call of the fastest host kernel of `spec` (the reference kernel when there is none): the median of
/// several calls, after one that is not counted. With one thread it is the thread's CPU time, which a busy machine does
/// not distort; with more, the clock's. Operands have random content. What is updated in place is so here.
/// @throws Error(M070) when the operands do not fit in memory; errors of the kernel.
double measure_host_kernel(const NodeSpec& spec, int64_t workspace_bytes, const MeasureOptions& options);

}  // namespace mpc::executor
