#pragma once

#include <string_view>

#include "compiler/plan/plan.h"

namespace mpc {

// The host's memory as a device of a plan: an arena with links to the devices that compute, and without a compute
// queue. Values wait there between the pass that makes them and the pass that reads them (passes/offload.h). It is the
// last device of a plan that has it.

/// The backend of a device that is memory and runs nothing.
inline constexpr std::string_view kHostMemoryBackend = "host";

inline bool is_host_memory(const PlanDevice& device) {
  return device.backend == kHostMemoryBackend;
}

/// The devices of a plan that can run nodes.
inline size_t computing_device_count(const Plan& plan) {
  size_t count = 0;
  for (const PlanDevice& device : plan.devices) count += is_host_memory(device) ? 0 : 1;
  return count;
}

}  // namespace mpc
