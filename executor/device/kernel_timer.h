#pragma once

#include <memory>
#include <optional>
#include <string>

#include "executor/device/accelerators.h"
#include "executor/host/arena.h"
#include "executor/measure_operands.h"

namespace mpc::executor {

/// What copies of one direction between the host and a device take.
struct HostCopy {
  double bytes_per_second = 0;  // of pinned memory, 64 MiB
  double latency_s = 0;         // a copy of 256 bytes
};

/// Times the kernels of one CUDA device alone, between two events of its stream, replayed as steps are. Kernels are
/// those that a session would take.
class KernelTimer {
 public:
  /// @param device     "cuda:0"
  /// @param precision  as plans have it: in "tf32" products of f32 round their operands
  /// @throws Error(M080) when the plugin or the GPU is not there.
  KernelTimer(const std::string& device, const std::string& precision);
  ~KernelTimer();
  KernelTimer(const KernelTimer&) = delete;
  KernelTimer& operator=(const KernelTimer&) = delete;

  /// Seconds of one call of the node's kernel, with what the GPU takes from one kernel to the next: the median of
  /// replays of several calls in a row. Operands have random content, and what is updated in place is so here. Nothing
  /// when the device has no kernel for the node.
  /// @throws Error(M070) when the operands do not fit; Error(M080) when the device fails.
  std::optional<double> seconds_of(const NodeSpec& spec, const MeasureOptions& options);

  HostCopy copy_to_device();
  HostCopy copy_from_device();

 private:
  class Stopwatch;
  HostCopy host_copy(bool is_to_device);
  Arena allocate(int64_t bytes);
  const DeviceStream& stream() const { return *accelerators_->stream(0); }

  Plan plan_;  // one device and its queue
  std::unique_ptr<Accelerators> accelerators_;
  std::unique_ptr<Stopwatch> stopwatch_;
};

}  // namespace mpc::executor
