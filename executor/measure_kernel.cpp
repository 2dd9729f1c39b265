#include "executor/measure_kernel.h"

#include <ctime>

#include "executor/cpu/cpu_kernels.h"
#include "executor/host/float_environment.h"
#include "executor/host/threads.h"

namespace mpc::executor {
namespace {

double now_s(int threads) {
  timespec time{};
  ::clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  constexpr double kNano = 1e-9;
  return static_cast<double>(time.tv_sec) + kNano * static_cast<double>(time.tv_nsec);
}

}  // namespace

double measure_host_kernel(const NodeSpec& spec, int64_t workspace_bytes, const MeasureOptions& options) {
  const FloatEnvironment floats;
  const OpenMpThreads threads(spec.threads);
  MeasuredOperands operands(spec, workspace_bytes, options);
  const KernelOrReason found = cpu::find_kernel(spec);
  // The second micro-batch: an accumulation adds, as it does in all but the first.
  const KernelCall call{*spec.attributes, operands.inputs, operands.outputs, {0, 1, 0}, operands.workspace};
  return median_seconds(options, [&] {
    const double start = now_s(spec.threads);
    if (found.kernel != nullptr) {
      found.kernel->run(call);
    } else {
      reference_kernel(spec.op)(call);
    }
    return now_s(spec.threads) - start;
  });
}

}  // namespace mpc::executor
