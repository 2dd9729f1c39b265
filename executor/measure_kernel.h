#pragma once

#include <cstdint>

#include "executor/backend.h"

namespace mpc::executor {

/// How a kernel of the host is timed.
struct MeasureOptions {
  // Integer operands are in [least_integer, least_integer + integers).
  int64_t least_integer = 0;
  int64_t integers = 1;
  double least_seconds = 0.01;  // calls go on until they took this long together
  int least_calls = 5;
  int most_calls = 100;
};

/// Seconds of one call of the fastest host kernel of `spec` (the reference kernel when there is none): the median of
/// several calls, after one that is not counted. With one thread it is the thread's CPU time, which a busy machine does
/// not distort; with more, the clock's. Operands have random content. What is updated in place is so here.
/// @throws Error(M070) when the operands do not fit in memory; errors of the kernel.
double measure_host_kernel(const NodeSpec& spec, int64_t workspace_bytes, const MeasureOptions& options);

}  // namespace mpc::executor
