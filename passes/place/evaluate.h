#pragma once

#include <cstdint>
#include <vector>

#include "passes/place/problem.h"

namespace mpc::place {

/// What an assignment costs.
struct Evaluation {
  std::vector<double> load_s;  // [device]: compute and its transfers, per micro-batch
  std::vector<double> compute_s;
  std::vector<int64_t> memory_bytes;  // [device]: estimate
  double largest_load_s = 0;
  int64_t overflow_bytes = 0;  // sum over devices of what exceeds the capacity
  int64_t sent_bytes = 0;      // between devices, per micro-batch
  double transfer_s = 0;       // of that: at both ends of every transfer
  int devices_used = 0;
};
Evaluation evaluate(const Problem& problem, const std::vector<int>& device_of_block);

/// The devices in the order of their stages: behind every device that sends them tensors of the forward pass. Devices
/// on a cycle, which no order puts right, come behind the others, by their first block; those without blocks come last.
/// O(T log T + N).
std::vector<int> order_of_devices(const Problem& problem, const std::vector<int>& device_of_block);

/// The largest share of its capacity that a device holds. O(blocks + tensors).
double largest_share(const Problem& problem, const std::vector<int>& device_of_block);

/// Seconds of the problem's critical path (critical_path.h).
double critical_path_s(const Problem& problem, const std::vector<int>& device_of_block);

}  // namespace mpc::place
