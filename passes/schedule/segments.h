#pragma once

#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

// Segments are what a schedule orders: nodes of one device and one phase (forward; backward; weight; update) that can
// run one after the other without waiting in between. A node's level is the largest number of changes of device or
// phase on any path to it; nodes of equal device, phase and level form a segment. Edges between segments go from lower
// to higher levels, from backward to weight within a level, or to updates, so they form no cycle whatever the
// placement.

enum class SegmentPhase : uint8_t { forward, backward, weight, update };

/// Whole segments need least memory, because what the gradients of a layer read dies soon. `split`: the gradients of
/// weights have segments of their own, which a schedule may put off, since nothing of the same micro-batch waits for
/// them. `single`: every node is a segment, so that a device can go to and fro between branches.
enum class SegmentCut : uint8_t { whole, split, single };

struct Segment {
  DeviceId device;
  SegmentPhase phase = SegmentPhase::forward;
  int level = 0;
  bool per_step = false;
  std::vector<NodeId> nodes;    // in id order
  std::vector<double> seconds;  // per variant
};

/// `to` needs a result of `from`, `seconds` after it ends (per variant; the transfer between devices). Per-step
/// segments need all micro-batches.
struct SegmentEdge {
  int from = 0;
  int to = 0;
  std::vector<double> seconds;
  /// An earlier edge from the same segment whose transfers bring all that `to` needs: nothing is sent again. Or -1.
  int brought_by = -1;
};

/// What a micro-batch keeps on a device from the segment that makes it (of received values and inputs: the first that
/// reads it) to the last of its readers there.
struct KeptBytes {
  int maker = 0;
  std::vector<int> readers;    // ascending, without the maker
  std::vector<int64_t> bytes;  // per variant
};

struct Segments {
  std::vector<Segment> segments;     // ascending (level, device, phase)
  std::vector<SegmentEdge> edges;    // ascending (from, to), one per pair
  std::vector<KeptBytes> kept;       // one per (maker, readers)
  std::vector<int> segment_of_node;  // transfers: -1
  int device_count = 0;
};

/// Cuts a local graph into segments. `graphs` holds the graph once per variant (same structure, other shapes).
/// @pre stage local. O(N + E).
Segments make_segments(const std::vector<const Graph*>& graphs, const Cluster& cluster, SegmentCut cut);

}  // namespace mpc
