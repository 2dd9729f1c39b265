#pragma once

#include <optional>
#include <vector>

#include "passes/place/problem.h"

namespace mpc::place {

// Contiguous splits of a model: the problem as an instance of the search (passes/place/search), whose blocks are those
// of the problem joined where they must stay together, and the search's split as devices of the problem.

struct StageOptions {
  /// Share of the largest load that may be given for fewer transfers.
  double transfer_slack = 0;
  /// Throughput: stages on all devices, when there are enough blocks. Otherwise on as few as hold the model, with the
  /// least traffic.
  bool uses_all_devices = true;
  bool obeys_capacities = true;
  /// A first good split only: no proof and no search for better orders.
  bool is_quick = false;
};

struct Stages {
  std::vector<int> device_of_block;
  double lower_bound = 0;  // of the largest load of such a split, seconds
};

/// The best contiguous split found; nothing when no split obeys pins and capacities.
/// Deterministic. O(orders * blocks * longest stage).
/// @throws Error(M051) for more kinds of devices than the search takes.
std::optional<Stages> split_in_stages(const Problem& problem, const StageOptions& options);

}  // namespace mpc::place
