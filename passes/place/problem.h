#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"
#include "passes/place/critical_path.h"
#include "passes/schedule/held_microbatches.h"

namespace mpc::place {

// The placement problem, free of IR details: blocks that stay whole, tensors between them, devices.
// A block is one forward node with everything anchored to it (its gradient and update nodes).

/// A value that one block makes and others read. It travels once to every other device that has a reader.
struct Tensor {
  int producer = -1;
  std::vector<int> consumers;   // ascending, without duplicates and without the producer
  int64_t forward_bytes = 0;    // per micro-batch, producer to reader
  int64_t backward_bytes = 0;   // its gradient, reader to producer
  int64_t in_flight_bytes = 0;  // what every micro-batch in flight keeps of it where it is read
  int64_t copied_bytes = 0;     // a weight: kept on every device with a reader, once
  bool is_parameter = false;    // a weight that several blocks read; the producer is the first of them
};

/// Seconds that moving `tensor` takes over one link, and its gradient over another one.
double move_seconds(const Tensor& tensor, const Link& there, const Link& back);

struct Problem {
  int block_count = 0;
  int device_count = 0;
  std::vector<std::vector<double>> seconds;     // [device][block], per micro-batch, forward and backward
  std::vector<int64_t> persistent_bytes;        // [block]: parameters, accumulated gradients, optimizer state
  std::vector<int64_t> kept_bytes;              // [block]: activations kept for the backward pass, per micro-batch
  std::vector<int64_t> kept_for_weights_bytes;  // [block]: what its weight gradients read, per micro-batch
  /// [block]: operands and results while it runs; in training its largest weight gradient that is made apart.
  std::vector<int64_t> working_bytes;
  std::vector<int64_t> input_bytes;  // [block]: graph inputs it is the first to read, per micro-batch
  std::vector<Tensor> tensors;
  std::vector<std::vector<int>> tensors_of;  // [block]: tensors it makes or reads
  std::vector<int> pinned;                   // [block]: device, or -1
  /// [block]: the block whose device it shares, or -1. The loss follows the layer that it judges unless
  /// it is pinned: a device that has nothing but the loss would do next to nothing and look busy. What only rearranges
  /// weights that no step changes follows its first reader: any device can hold the weights.
  std::vector<int> follows;
  std::vector<int64_t> capacity_bytes;  // [device]
  std::vector<int> device_order;        // in which stages take the devices; empty: whichever is best
  int microbatches = 1;                 // of a step; 1 without training, where nothing waits for a backward pass
  HeldMicrobatches held;
  /// Copy engines move tensors while the device computes. True for streams of inference between GPUs. In training under
  /// 1F1B the micro-batches in flight are few and every one waits for its transfers, but with more of them it need not;
  /// copies between CPU devices take their cores.
  bool overlaps_transfers = false;
  /// The devices are parts of devices (passes/chunks.h), in the order in which stages take them.
  bool is_of_parts = false;
  const Cluster* cluster = nullptr;
  std::vector<NodeId> nodes;  // [block]: its forward node
  bool is_training = false;
  /// Made when it is first asked for: not every objective needs it. @pre the graph and the cluster are still there.
  const CriticalPath& path() const;

  std::function<CriticalPath()> make_path;
  mutable std::optional<CriticalPath> made_path;

  /// Seconds that moving `tensor` once from one device to another takes, and its gradient back.
  double move_seconds(const Tensor& tensor, int from, int to) const;
};

/// The assignment with every block that follows another one beside it.
std::vector<int> with_followers(const Problem& problem, std::vector<int> device_of_block);

struct Pin {
  std::string pattern;  // ECMAScript regex, searched in the node's name
  int device = 0;
};

/// The pattern of a pin. @throws Error(M003).
std::regex regex_of(const Pin& pin);

/// Can every device of the cluster compute while tensors are copied?
bool has_copy_engines(const Cluster& cluster);

/// @throws Error(M002) for a pin that matches no node (with a near name), Error(M003) for a bad pattern or device.
Problem make_problem(const Graph& graph, const Cluster& cluster, const std::vector<Pin>& pins, int microbatches);
/// Fills in `follows`; blocks that are pinned follow nothing.
void attach_followers(const Graph& graph, Problem& problem);

}  // namespace mpc::place
