#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "api/profile_nodes.h"
#include "compiler/cost/cluster.h"
#include "executor/device/kernel_timer.h"
#include "executor/measure_kernel.h"

// Times nodes on the devices of a machine.

namespace mpc::api {

/// A device that nodes are timed on: the host, or a GPU with a timer for each way to compute products.
class NodeTimer {
 public:
  explicit NodeTimer(const Device& device);
  bool is_gpu() const { return strict_.has_value(); }
  /// @pre is_gpu()
  executor::KernelTimer& gpu() { return *strict_; }

  /// Seconds of a node; nothing when the device has no kernel for it. @throws as HostKernelTimer and KernelTimer.
  std::optional<double> seconds_of(const ProfileNode& node);

 private:
  int threads_;
  executor::HostKernelTimer host_;
  std::optional<executor::KernelTimer> strict_;
  std::optional<executor::KernelTimer> rounded_;  // for nodes in TF32
};

/// The timers of devices that can work at the same time: those of the host that have cores of their own, or one GPU,
/// which is alone. @pre at least one device, all of one kind
class NodeTimers {
 public:
  explicit NodeTimers(const std::vector<Device>& devices);
  NodeTimer& first() { return timers_.front(); }

  /// Calls `work` for every timer at the same time, on a thread of its own, when there are several; else here.
  /// @throws what the first of them threw that threw, after all have returned.
  void at_once(const std::function<void(size_t i, NodeTimer& timer)>& work);

  /// Times every node on one of the devices, seconds in the order of the nodes. The others work meanwhile, until the
  /// last node is timed: what a node takes in a step depends on what its neighbours take of the memory and the cache
  /// that they share.
  /// @param progress  told how many nodes are done, of how many, and the operator of the next; by any thread, but one
  ///                  at a time
  /// @throws as seconds_of; what `progress` throws.
  std::vector<std::optional<double>> seconds_of(
      const std::vector<const ProfileNode*>& nodes,
      const std::function<void(int64_t done, int64_t total, const std::string& op)>& progress);

 private:
  std::deque<NodeTimer> timers_;  // which cannot be moved
  int threads_;                   // of each
};

}  // namespace mpc::api
