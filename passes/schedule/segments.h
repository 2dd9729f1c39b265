#pragma once

#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

// Segments are what a schedule orders: nodes of one device and one phase (forward; backward; update) that can run one after
// the other without waiting in between. A node's level is the largest number of changes of device or phase on any path to
// it; nodes of equal device, phase and level form a segment. Edges between segments go from lower to higher levels,
// so they form no cycle whatever the placement.

enum class SegmentPhase : uint8_t { forward, backward, update };

struct Segment {
  DeviceId device;
  SegmentPhase phase = SegmentPhase::forward;
  int level = 0;
  bool per_step = false;
  std::vector<NodeId> nodes;      // in id order
  std::vector<double> seconds;    // per variant
};

/// `to` needs a result of `from`, `seconds` after it ends (per variant; the transfer between devices). Per-step segments need all micro-batches.
struct SegmentEdge {
  int from = 0;
  int to = 0;
  std::vector<double> seconds;
};

struct Segments {
  std::vector<Segment> segments;       // ascending level, then device
  std::vector<SegmentEdge> edges;      // ascending (from, to), one per pair
  std::vector<int> segment_of_node;    // transfers: -1
  int device_count = 0;
};

/// Cuts a local graph into segments. `graphs` holds the graph once per variant (same structure, other shapes).
/// @pre stage local. O(N + E).
Segments make_segments(const std::vector<const Graph*>& graphs, const Cluster& cluster);

}  // namespace mpc
