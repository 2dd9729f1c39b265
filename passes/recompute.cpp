#include "passes/recompute.h"

#include <algorithm>
#include <limits>
#include <set>

#include "compiler/cost/estimate.h"
#include "compiler/ir/rewriter.h"
#include "passes/levels.h"

namespace mpc {
namespace {

constexpr int kBlockCounts[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
// The share of the bytes that is dropped, cheapest per byte first.
constexpr double kShares[] = {0.25, 0.5, 0.75, 1};

bool is_gradient(const Node& node) {
  return node.phase == Phase::input_grad || node.phase == Phase::weight_grad;
}

// A clone may not write over what the step still needs, and what happens once per step is not kept per micro-batch.
bool can_repeat(const Node& node) {
  if (node.phase != Phase::forward || node.rate == Rate::per_step) return false;
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (aliased_input(node.op, static_cast<int>(i))) return false;
  }
  return true;
}

/// The forward nodes of one device in the order in which they run, and what they keep.
class DeviceBlocks {
 public:
  DeviceBlocks(const Graph& graph, const std::vector<std::vector<NodeId>>& users, const std::vector<int>& levels,
               const Device& device, DeviceId id)
      : graph_(graph), users_(users), device_(id) {
    for (int i = 0; i < graph.node_count(); ++i) {
      const Node& node = graph.node(NodeId(i));
      if (node.device == id && node.phase == Phase::forward && node.rate == Rate::per_microbatch)
        nodes_.push_back(NodeId(i));
    }
    std::ranges::stable_sort(nodes_, {}, [&](NodeId n) { return levels[n.index()]; });
    position_.assign(static_cast<size_t>(graph.node_count()), -1);
    for (size_t i = 0; i < nodes_.size(); ++i) position_[nodes_[i].index()] = static_cast<int>(i);
    for (const NodeId node : nodes_) {
      int64_t bytes = 0;
      for (const ValueId output : graph.node(node).outputs) bytes += is_kept(output) ? graph.value(output).bytes() : 0;
      kept_bytes_.push_back(bytes);
      total_bytes_ += bytes;
      seconds_per_byte_.push_back(bytes > 0 ? node_seconds(graph, node, device) / static_cast<double>(bytes) : 0);
    }
    add_crossing_bytes();
  }

  /// Adds the values that go when the device has `blocks` blocks and drops `share` of its bytes.
  void drop(int blocks, double share, std::vector<ValueId>& dropped) const {
    const std::vector<int> block_of = cut(blocks);
    const std::vector<bool> is_cheap = cheapest(share);
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const Node& node = graph_.node(nodes_[i]);
      if (!is_cheap[i] || !can_repeat(node)) continue;
      for (const ValueId output : node.outputs) {
        if (output.is_valid() && is_only_read_in(block_of, block_of[i], output)) dropped.push_back(output);
      }
    }
  }

 private:
  bool is_kept(ValueId id) const {
    return id.is_valid() &&
           std::ranges::any_of(users_[id.index()], [&](NodeId user) { return is_gradient(graph_.node(user)); });
  }

  // Bytes that forward nodes behind a position read from before it.
  void add_crossing_bytes() {
    std::vector<int64_t> change(nodes_.size() + 1, 0);
    for (size_t i = 0; i < nodes_.size(); ++i) {
      for (const ValueId output : graph_.node(nodes_[i]).outputs) {
        if (!output.is_valid()) continue;
        int last = static_cast<int>(i);
        for (const NodeId user : users_[output.index()]) last = std::max(last, position_[user.index()]);
        change[i] += graph_.value(output).bytes();
        change[static_cast<size_t>(last)] -= graph_.value(output).bytes();
      }
    }
    int64_t crossing = 0;
    for (size_t i = 0; i < nodes_.size(); ++i) crossing_bytes_.push_back(crossing += change[i]);
  }

  // Blocks of about equal bytes, cut where few bytes cross.
  std::vector<int> cut(int blocks) const {
    std::vector<int> block_of(nodes_.size(), 0);
    if (total_bytes_ == 0) return block_of;
    std::set<size_t> ends;  // the last node of each block but the last
    for (int b = 1; b < blocks; ++b) {
      const double target = static_cast<double>(total_bytes_) * b / blocks;
      const double reach = static_cast<double>(total_bytes_) / (3.0 * blocks);
      int64_t least = std::numeric_limits<int64_t>::max();
      size_t best = 0;
      int64_t before = 0;
      for (size_t i = 0; i + 1 < nodes_.size(); ++i) {
        before += kept_bytes_[i];
        if (std::abs(static_cast<double>(before) - target) > reach || crossing_bytes_[i] >= least) continue;
        least = crossing_bytes_[i];
        best = i;
      }
      if (least < std::numeric_limits<int64_t>::max()) ends.insert(best);
    }
    int block = 0;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      block_of[i] = block;
      if (ends.contains(i)) ++block;
    }
    return block_of;
  }

  // Nodes that keep nothing are as cheap as the clones that want their results.
  std::vector<bool> cheapest(double share) const {
    std::vector<size_t> order(nodes_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::ranges::stable_sort(order, {}, [&](size_t i) { return seconds_per_byte_[i]; });
    std::vector<bool> result(nodes_.size(), false);
    double left = share * static_cast<double>(total_bytes_);
    for (const size_t i : order) {
      if (kept_bytes_[i] > 0 && left <= 0) break;
      result[i] = true;
      left -= static_cast<double>(kept_bytes_[i]);
    }
    return result;
  }

  bool is_only_read_in(const std::vector<int>& block_of, int block, ValueId id) const {
    const bool is_output =
        std::ranges::any_of(graph_.outputs, [&](const NamedValue& output) { return output.value == id; });
    if (is_output) return false;
    return std::ranges::all_of(users_[id.index()], [&](NodeId user) {
      const Node& node = graph_.node(user);
      if (node.device != device_) return false;
      if (node.phase != Phase::forward) return is_gradient(node) && node.rate == Rate::per_microbatch;
      const int position = position_[user.index()];
      return position >= 0 && block_of[static_cast<size_t>(position)] == block;
    });
  }

  const Graph& graph_;
  const std::vector<std::vector<NodeId>>& users_;
  DeviceId device_;
  std::vector<NodeId> nodes_;
  std::vector<int> position_;  // [node] in nodes_, or -1
  std::vector<int64_t> kept_bytes_;
  std::vector<double> seconds_per_byte_;
  std::vector<int64_t> crossing_bytes_;  // [i] behind nodes_[i]
  int64_t total_bytes_ = 0;
};

// What the devices keep for their gradient nodes, per micro-batch.
std::vector<int64_t> kept_bytes(const Graph& graph, size_t devices) {
  std::set<std::pair<ValueId, DeviceId>> kept;
  for (const Node& node : graph.nodes()) {
    if (!is_gradient(node)) continue;
    for (const ValueId input : node.inputs) {
      if (!input.is_valid() || graph.value(input).kind != ValueKind::node) continue;
      const Node& producer = graph.node(graph.value(input).producer);
      const bool is_kept = producer.phase == Phase::forward && producer.rate == Rate::per_microbatch;
      if (is_kept) kept.emplace(input, node.device);
    }
  }
  std::vector<int64_t> bytes(devices, 0);
  for (const auto& [value, device] : kept) bytes[device.index()] += graph.value(value).bytes();
  return bytes;
}

class Recomputer {
 public:
  Recomputer(const Graph& graph, const std::vector<ValueId>& dropped)
      : graph_(graph),
        rewriter_(graph),
        is_dropped_(static_cast<size_t>(graph.value_count()), false),
        clone_(static_cast<size_t>(graph.value_count())) {
    for (const ValueId id : dropped) is_dropped_[id.index()] = true;
    find_phases();
  }

  Graph run() {
    for (int i = 0; i < graph_.node_count(); ++i) copy(NodeId(i));
    return rewriter_.finish(graph_.stage);
  }

 private:
  // A clone that any input gradient waits for is one itself; the others may be put off with the weight gradients.
  void find_phases() {
    serves_input_grad_.assign(static_cast<size_t>(graph_.value_count()), false);
    for (const Node& node : graph_.nodes()) {
      for (const ValueId input : node.inputs) {
        if (input.is_valid() && node.phase == Phase::input_grad) serves_input_grad_[input.index()] = true;
      }
    }
    for (int i = graph_.node_count() - 1; i >= 0; --i) {
      const Node& node = graph_.node(NodeId(i));
      if (node.phase != Phase::forward) continue;
      const bool serves = std::ranges::any_of(node.outputs, [&](ValueId id) {
        return id.is_valid() && is_dropped_[id.index()] && serves_input_grad_[id.index()];
      });
      if (!serves) continue;
      for (const ValueId input : node.inputs) {
        if (input.is_valid()) serves_input_grad_[input.index()] = true;
      }
    }
  }

  void copy(NodeId id) {
    const Node& old = graph_.node(id);
    std::vector<std::pair<size_t, ValueId>> replaced;
    for (size_t k = 0; k < old.inputs.size() && is_gradient(old); ++k) {
      if (old.inputs[k].is_valid() && is_dropped_[old.inputs[k].index()])
        replaced.emplace_back(k, clone_of(old.inputs[k]));
    }
    const NodeId copied = rewriter_.copy(id);
    for (const auto& [k, value] : replaced) rewriter_.graph().node(copied).inputs[k] = value;
  }

  ValueId clone_of(ValueId id) {
    if (clone_[id.index()].is_valid()) return clone_[id.index()];
    // Depth first without recursion: a chain may be as long as the model.
    std::vector<NodeId> waiting = {graph_.value(id).producer};
    while (!waiting.empty()) {
      const NodeId producer = waiting.back();
      const size_t known = waiting.size();
      for (const ValueId input : graph_.node(producer).inputs) {
        if (input.is_valid() && is_dropped_[input.index()] && !clone_[input.index()].is_valid())
          waiting.push_back(graph_.value(input).producer);
      }
      if (waiting.size() > known) continue;
      waiting.pop_back();
      if (!is_cloned(producer)) clone(producer);
    }
    return clone_[id.index()];
  }

  bool is_cloned(NodeId id) const {
    return std::ranges::any_of(graph_.node(id).outputs,
                               [&](ValueId output) { return output.is_valid() && clone_[output.index()].is_valid(); });
  }

  void clone(NodeId id) {
    const Node& old = graph_.node(id);
    Node node = old;
    node.name = std::string(kRecomputeScope) + old.name;
    node.anchor = rewriter_.node_at(id);
    node.phase = Phase::weight_grad;
    for (ValueId& input : node.inputs) {
      if (input.is_valid()) input = is_dropped_[input.index()] ? clone_[input.index()] : rewriter_.at(input);
    }
    std::vector<Graph::OutputType> outputs;
    for (const ValueId output : old.outputs) {
      if (!output.is_valid()) {
        outputs.push_back({});
        continue;
      }
      const Value& value = graph_.value(output);
      if (is_dropped_[output.index()] && serves_input_grad_[output.index()]) node.phase = Phase::input_grad;
      outputs.push_back({std::string(kRecomputeScope) + value.name, value.dtype, value.shape, value.rate});
    }
    const NodeId added = rewriter_.graph().add_node(std::move(node), std::move(outputs));
    for (size_t i = 0; i < old.outputs.size(); ++i) {
      if (old.outputs[i].is_valid()) clone_[old.outputs[i].index()] = rewriter_.graph().node(added).outputs[i];
    }
  }

  const Graph& graph_;
  Rewriter rewriter_;
  std::vector<bool> is_dropped_;
  std::vector<bool> serves_input_grad_;  // [value]
  std::vector<ValueId> clone_;           // [value]
};

}  // namespace

std::vector<Recomputation> recomputations(const Graph& graph, const Cluster& cluster,
                                          const std::vector<bool>& is_tight) {
  const auto users = users_of(graph);
  const std::vector<int> levels = levels_of(graph);
  std::vector<DeviceBlocks> devices;
  for (size_t d = 0; d < is_tight.size(); ++d) {
    if (is_tight[d]) devices.emplace_back(graph, users, levels, cluster.devices[d], DeviceId(d));
  }
  const std::vector<int64_t> kept_before = kept_bytes(graph, is_tight.size());
  std::set<std::vector<ValueId>> known;
  std::vector<Recomputation> result;
  for (const int blocks : kBlockCounts) {
    for (const double share : kShares) {
      Recomputation candidate;
      for (const DeviceBlocks& device : devices) device.drop(blocks, share, candidate.dropped);
      std::ranges::sort(candidate.dropped);
      if (candidate.dropped.empty() || !known.insert(candidate.dropped).second) continue;
      const Graph changed = recompute(graph, candidate.dropped);
      for (int i = 0; i < changed.node_count(); ++i) {
        const Node& node = changed.node(NodeId(i));
        if (is_recomputed(node)) candidate.seconds += node_seconds(changed, NodeId(i), cluster.device(node.device));
      }
      candidate.saved_bytes = kept_before;
      const std::vector<int64_t> kept = kept_bytes(changed, is_tight.size());
      for (size_t d = 0; d < kept.size(); ++d) candidate.saved_bytes[d] -= kept[d];
      if (candidate.seconds > 0) result.push_back(std::move(candidate));
    }
  }
  std::ranges::stable_sort(result, {}, &Recomputation::seconds);
  return result;
}

Graph recompute(const Graph& graph, const std::vector<ValueId>& dropped) {
  return Recomputer(graph, dropped).run();
}

bool is_recomputed(const Node& node) {
  return node.name.starts_with(kRecomputeScope);
}

}  // namespace mpc
