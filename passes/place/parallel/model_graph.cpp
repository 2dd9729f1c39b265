#include "passes/place/parallel/model_graph.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/cost/estimate.h"
#include "compiler/ops/builder.h"
#include "passes/place/parallel/shard.h"

namespace mpc::place {
namespace {

constexpr int kMostBlocks = 400;
constexpr int kFewBlocks = 16;  // more crossings are allowed until there are so many

class ModelReader {
 public:
  ModelReader(const Graph& graph, const Machines& machines, int64_t microbatches)
      : graph_(graph), machines_(machines), microbatches_(static_cast<double>(microbatches)) {
    model_.graph.name = graph.name;
    model_.graph.time_unit = "s";
    model_.graph.devices = machines.gpus;
    model_.graph.memory_bytes = static_cast<double>(machines.gpu.memory_bytes);
    model_.graph.bytes_per_time = machines.gpus > machines.gpus_per_node ? machines.bytes_per_second_between_nodes
                                                                         : machines.bytes_per_second_in_node;
    model_.graph.microbatches = microbatches;
    for (int degree = 1; degree <= machines.gpus_per_node && degree <= machines.gpus; degree *= 2)
      model_.graph.degrees.push_back(degree);
  }

  ModelGraph run() {
    find_blocks();
    for (const int degree : model_.graph.degrees) add_costs(degree);
    return std::move(model_);
  }

 private:
  /// Is the value an activation that stages pass on? What depends on no parameter is made anew where it is needed.
  bool is_passed(ValueId id) const { return depends_on_weights_[id.index()] != 0; }

  void find_blocks() {
    depends_on_weights_.assign(static_cast<size_t>(graph_.value_count()), 0);
    for (int n = 0; n < graph_.node_count(); ++n) {
      const Node& node = graph_.node(NodeId(n));
      if (node.phase != Phase::forward || node.rate == Rate::per_step) continue;
      const bool depends = std::ranges::any_of(node.inputs, [&](ValueId id) {
        return id.is_valid() && (graph_.value(id).kind == ValueKind::parameter ||
                                 depends_on_weights_[id.index()] != 0 || is_made_of_parameters(id));
      });
      for (const ValueId output : node.outputs) {
        if (output.is_valid()) depends_on_weights_[output.index()] = depends;
      }
      if (depends) order_.push_back(n);
    }
    if (order_.size() < 2) {
      throw Error(ErrorId::M046, graph_.name,
                  "has fewer than two operators that work with parameters: nothing to split");
    }
    const std::vector<Border> borders = borders_between();
    size_t most = 1;  // values that cross a border
    std::vector<size_t> ends;
    for (;; ++most) {
      ends.clear();
      for (size_t i = 0; i + 1 < order_.size(); ++i) {
        if (borders[i].values <= most) ends.push_back(i);
      }
      if (ends.size() + 1 >= std::min<size_t>(kFewBlocks, order_.size())) break;
    }
    thin_out(ends);
    make_blocks(ends, borders);
  }

  bool is_made_of_parameters(ValueId id) const {
    const Value& value = graph_.value(id);
    return value.rate == Rate::per_step && value.kind == ValueKind::node;
  }

  struct Border {
    size_t values = 0;
    double bytes = 0;
  };
  /// What is made at or before each place of the order and read after it.
  std::vector<Border> borders_between() const {
    std::vector<size_t> place(static_cast<size_t>(graph_.node_count()), order_.size());
    for (size_t i = 0; i < order_.size(); ++i) place[static_cast<size_t>(order_[i])] = i;
    std::vector<size_t> last(static_cast<size_t>(graph_.value_count()), 0);
    for (size_t i = 0; i < order_.size(); ++i) {
      for (const ValueId input : graph_.node(NodeId(order_[i])).inputs) {
        if (input.is_valid()) last[input.index()] = std::max(last[input.index()], i);
      }
    }
    std::vector<Border> change(order_.size() + 1);
    std::vector<Border> borders(order_.size());
    std::vector<std::vector<std::pair<size_t, double>>> closing(order_.size() + 1);
    Border open;
    for (size_t i = 0; i < order_.size(); ++i) {
      for (const auto& [from, bytes] : closing[i]) {
        --open.values;
        open.bytes -= bytes;
      }
      for (const ValueId output : graph_.node(NodeId(order_[i])).outputs) {
        if (!output.is_valid() || last[output.index()] <= i) continue;
        const auto bytes = static_cast<double>(graph_.value(output).bytes());
        ++open.values;
        open.bytes += bytes;
        closing[last[output.index()]].push_back({i, bytes});
      }
      borders[i] = open;
    }
    return borders;
  }

  /// Leaves out borders, the closest to another first, until the search can take what remains.
  static void thin_out(std::vector<size_t>& ends) {
    while (ends.size() + 1 > kMostBlocks) {
      std::vector<size_t> kept;
      for (size_t i = 0; i < ends.size(); i += 2) kept.push_back(ends[i]);
      ends = std::move(kept);
    }
  }

  void make_blocks(const std::vector<size_t>& ends, const std::vector<Border>& borders) {
    block_of_.assign(static_cast<size_t>(graph_.node_count()), -1);
    size_t begin = 0;
    for (size_t b = 0; b <= ends.size(); ++b) {
      const size_t end = b < ends.size() ? ends[b] + 1 : order_.size();
      ModelBlock block;
      block.first = graph_.node(NodeId(order_[begin])).name;
      block.last = graph_.node(NodeId(order_[end - 1])).name;
      block.nodes = static_cast<int>(end - begin);
      for (size_t i = begin; i < end; ++i) block_of_[static_cast<size_t>(order_[i])] = static_cast<int>(b);
      ParallelNode node;
      node.id = static_cast<int64_t>(b);
      if (b > 0) {
        node.in = {static_cast<int>(b) - 1};
        model_.graph.edges.push_back({static_cast<int>(b) - 1, static_cast<int>(b), borders[ends[b - 1]].bytes});
      }
      if (b < ends.size()) node.out = {static_cast<int>(b)};
      model_.graph.nodes.push_back(std::move(node));
      model_.blocks.push_back(std::move(block));
      begin = end;
    }
    place_others();
  }

  /// Nodes outside the chain go with the first block that reads what they make; those of the backward pass and updates
  /// with the node they belong to.
  void place_others() {
    for (int n = graph_.node_count() - 1; n >= 0; --n) {
      const Node& node = graph_.node(NodeId(n));
      if (node.phase == Phase::forward) continue;
      if (node.anchor.is_valid()) block_of_[static_cast<size_t>(n)] = -2;  // through its anchor
    }
    const std::vector<std::vector<NodeId>> users = users_of(graph_);
    for (int n = graph_.node_count() - 1; n >= 0; --n) {
      const Node& node = graph_.node(NodeId(n));
      if (node.phase != Phase::forward || block_of_[static_cast<size_t>(n)] >= 0) continue;
      int block = static_cast<int>(model_.blocks.size()) - 1;
      for (const ValueId output : node.outputs) {
        if (!output.is_valid()) continue;
        for (const NodeId user : users[output.index()]) {
          if (graph_.node(user).phase == Phase::forward && block_of_[user.index()] >= 0)
            block = std::min(block, block_of_[user.index()]);
        }
      }
      block_of_[static_cast<size_t>(n)] = block;
    }
  }

  /// The forward node whose share a node has.
  NodeId anchor_of(NodeId id) const {
    const Node& node = graph_.node(id);
    return node.phase != Phase::forward && node.anchor.is_valid() ? node.anchor : id;
  }

  int block_of(NodeId id) const {
    const int block = block_of_[anchor_of(id).index()];
    return block >= 0 ? block : static_cast<int>(model_.blocks.size()) - 1;
  }

  double seconds(NodeId id, double parts) const {
    const Node& node = graph_.node(id);
    const double once = node_seconds(graph_, id, machines_.gpu, parts);
    return node.rate == Rate::per_step ? once / microbatches_ : once;
  }

  double reduce_seconds(double bytes, double degree) const {
    if (bytes == 0) return 0;
    return 2 * machines_.latency_in_node_s + 2 * (degree - 1) / degree * bytes / machines_.bytes_per_second_in_node;
  }

  /// What a block costs with one degree.
  struct Cost {
    double forward_s = 0;
    double backward_s = 0;
    double parameter_bytes = 0;
    double state_bytes = 0;
    double saved_bytes = 0;    // activations that the backward pass reads
    double largest_bytes = 0;  // operands of one node: what is alive beside them
  };

  void add_costs(int degree) {
    const Sharding sharding = shard(graph_, degree);
    std::vector<Cost> costs(model_.blocks.size());
    std::vector<char> is_counted(static_cast<size_t>(graph_.value_count()), 0);
    for (int n = 0; n < graph_.node_count(); ++n) {
      const NodeId id(n);
      const Node& node = graph_.node(id);
      const Sharding::NodeShare& share = sharding.nodes[anchor_of(id).index()];
      const double parts = share.is_divided ? degree : 1;
      Cost& cost = costs[static_cast<size_t>(block_of(id))];
      (node.phase == Phase::forward ? cost.forward_s : cost.backward_s) += seconds(id, parts);
      if (node.phase == Phase::forward) {
        cost.forward_s += reduce_seconds(share.reduced_forward, degree);
        if (is_training()) cost.backward_s += reduce_seconds(share.reduced_backward, degree);
      }
      cost.largest_bytes = std::max(cost.largest_bytes, static_cast<double>(operand_bytes(graph_, id)) / parts);
      for (const ValueId input : node.inputs) {
        if (!input.is_valid() || is_counted[input.index()] != 0) continue;
        const Value& value = graph_.value(input);
        const double bytes = static_cast<double>(value.bytes()) / parts;
        if (value.kind == ValueKind::parameter) {
          is_counted[input.index()] = 1;
          cost.parameter_bytes += value.trainable ? bytes : 0;
          cost.state_bytes += value.trainable ? 0 : bytes;
          if (degree == 1) model_.blocks[static_cast<size_t>(block_of(id))].parameters += value.shape.elements();
        } else if (value.kind == ValueKind::state) {
          is_counted[input.index()] = 1;
          cost.state_bytes += bytes;
        } else if (node.phase != Phase::forward && is_saved(value)) {
          is_counted[input.index()] = 1;
          const double value_parts = sharding.is_value_divided[input.index()] != 0 ? degree : 1;
          costs[static_cast<size_t>(block_of(value.producer))].saved_bytes +=
              static_cast<double>(value.bytes()) / value_parts;
        }
      }
    }
    for (size_t b = 0; b < costs.size(); ++b)
      model_.graph.nodes[b].choices.push_back(choices_of(costs[b], incoming_bytes(b)));
  }

  bool is_training() const { return graph_.stage == Stage::training; }

  bool is_saved(const Value& value) const {
    return value.kind == ValueKind::node && value.rate == Rate::per_microbatch &&
           graph_.node(value.producer).phase == Phase::forward;
  }

  double incoming_bytes(size_t block) const { return block == 0 ? 0 : model_.graph.edges[block - 1].bytes; }

  std::vector<ParallelChoice> choices_of(const Cost& cost, double incoming) const {
    ParallelChoice keeps;
    keeps.name = "vanilla";
    keeps.time = cost.forward_s + cost.backward_s;
    keeps.parameter_bytes = is_training() ? cost.parameter_bytes : 0;  // reduced over the replicas
    keeps.fixed_bytes = cost.parameter_bytes * (is_training() ? 2 : 1) + cost.largest_bytes;
    keeps.bytes_over_replicas = cost.state_bytes;
    keeps.bytes_per_microbatch = is_training() ? cost.saved_bytes : 0;
    keeps.sync_in.assign(1, 0);
    keeps.sync_out.assign(1, 0);
    if (!is_training()) return {keeps};
    ParallelChoice again = keeps;
    again.name = "activation recomp";
    again.time += cost.forward_s;
    again.bytes_per_microbatch = std::min(incoming, cost.saved_bytes);
    again.fixed_bytes += cost.saved_bytes;  // of the micro-batch whose backward pass runs
    return {keeps, again};
  }

  const Graph& graph_;
  const Machines& machines_;
  double microbatches_;
  ModelGraph model_;
  std::vector<int> order_;                // forward nodes that depend on parameters
  std::vector<char> depends_on_weights_;  // [value]
  std::vector<int> block_of_;             // [node]
};

}  // namespace

ModelGraph model_graph(const Graph& graph, const Machines& machines, int64_t microbatches) {
  return ModelReader(graph, machines, microbatches).run();
}

}  // namespace mpc::place
