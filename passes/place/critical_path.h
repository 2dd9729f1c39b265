#pragma once

#include <cstdint>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc::place {

/// One micro-batch of the graph, node by node, for the time that it takes when devices work side by side. Blocks are
/// too coarse for that: the gradient of a weight is off the way from the loss back to the first layer, though it
/// belongs to the block on that way.
struct CriticalPath {
  /// A value that a step makes (or that is there from the start: maker -1) and others read.
  struct Sent {
    int maker = -1;
    int home = 0;              // the block whose device makes or holds it
    std::vector<int> readers;  // steps, ascending, each once
    int64_t bytes = 0;         // per micro-batch; 0: it lies on every device that reads it
  };
  // Steps by urgency: what is on the longest way to the end goes first, and every step comes after what it reads.
  std::vector<int> block;                    // [step]
  std::vector<std::vector<double>> seconds;  // [device][step]
  std::vector<int> read_count;               // [step]: values
  std::vector<std::vector<int>> makes;       // [step]: values
  std::vector<Sent> values;
  /// The longest way through the graph when every step runs where it is fastest and nothing travels: no placement
  /// takes less.
  double longest_s = 0;
};

/// Where nodes belong and what they take: [node], and [device][node] per micro-batch.
/// @pre the ids of nodes are in an order of execution. O(N log N + E).
CriticalPath make_critical_path(const Graph& graph, const std::vector<int>& block_of_node,
                                const std::vector<std::vector<double>>& seconds_of_node,
                                const std::vector<bool>& is_fixed, int microbatches);

/// Time of one micro-batch from its inputs to its last result with devices working in parallel: list scheduling. A free
/// device takes, of the steps whose operands have arrived, the most urgent one; a value goes once to each device that
/// reads it; a link carries one at a time, in the order in which they are made. O(N (log N + devices) + readers).
double critical_path_s(const CriticalPath& path, const Cluster& cluster, const std::vector<int>& device_of_block);

}  // namespace mpc::place
