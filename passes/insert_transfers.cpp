#include "passes/insert_transfers.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "compiler/base/error.h"
#include "compiler/ir/rewriter.h"
#include "passes/levels.h"
#include "passes/weights.h"

namespace mpc {
namespace {

// A transfer costs its latency however small it is: below this size the latency is the larger part on every known link
// (8 us at 12 GB/s are 96 KB), so small values share one.
constexpr int64_t kSmallBytes = 64 << 10;

class TransferInserter {
 public:
  TransferInserter(const Graph& graph, const Graph& sizes)
      : graph_(graph),
        sizes_(sizes),
        rewriter_(graph),
        levels_(levels_of(graph)),
        owner_(static_cast<size_t>(graph.value_count())) {
    MPC_CHECK(sizes.value_count() == graph.value_count(), "the graph that says the sizes has another structure");
  }

  Graph run() {
    find_owners();
    find_destinations();
    insert_after(kBeforeAll);
    std::vector<int> order(static_cast<size_t>(graph_.node_count()));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, {}, [&](int i) { return levels_[static_cast<size_t>(i)]; });
    for (size_t i = 0; i < order.size(); ++i) {
      const NodeId id(order[i]);
      copy_node(id);
      const int level = levels_[id.index()];
      if (i + 1 == order.size() || levels_[static_cast<size_t>(order[i + 1])] != level) insert_after(level);
    }
    return rewriter_.finish(Stage::local);
  }

 private:
  static constexpr int kBeforeAll = -1;

  // The device a value is on before any transfer; invalid for what is fed to every reader.
  void find_owners() {
    const std::vector<bool> replaced = replaced_values(graph_);
    for (const Node& node : graph_.nodes()) {
      MPC_CHECK(node.device.is_valid(), describe(node) + " has no device");
      for (const ValueId input : node.inputs) {
        if (!input.is_valid()) continue;
        const ValueKind kind = graph_.value(input).kind;
        const bool lives_with_reader =
            kind == ValueKind::state || (kind == ValueKind::parameter && replaced[input.index()]);
        if (lives_with_reader && !owner_[input].is_valid()) owner_[input] = node.device;
      }
      for (const ValueId output : node.outputs) {
        if (output.is_valid()) owner_[output] = node.device;
      }
    }
  }

  void find_destinations() {
    for (const Node& node : graph_.nodes()) {
      for (const ValueId input : node.inputs) {
        if (!input.is_valid() || !owner_[input].is_valid() || owner_[input] == node.device) continue;
        const Value& value = graph_.value(input);
        MPC_CHECK(value.kind != ValueKind::state, "state \"" + value.name + "\" is read on two devices");
        const auto key = std::pair(input, node.device);
        if (!needed_.emplace(key, ValueId{}).second) continue;
        add_to_group(input, node.device);
      }
    }
  }

  void add_to_group(ValueId id, DeviceId to) {
    const Value& value = graph_.value(id);
    const bool is_made = value.kind == ValueKind::node;
    const int level = is_made ? levels_[value.producer.index()] : kBeforeAll;
    const Phase phase = is_made ? graph_.node(value.producer).phase : Phase::forward;
    const bool per_step = value.rate == Rate::per_step;
    // A large value is a group of its own: it must not wait for others, nor they for it.
    const int alone = sizes_.value(id).bytes() < kSmallBytes ? -1 : static_cast<int>(id.index());
    groups_[level][{owner_[id], to, phase, per_step, alone}].push_back(id);
  }

  void insert_after(int level) {
    const auto found = groups_.find(level);
    if (found == groups_.end()) return;
    for (auto& [key, values] : found->second) {
      std::ranges::sort(values);
      insert(std::get<1>(key), values);
    }
  }

  void insert(DeviceId to, const std::vector<ValueId>& values) {
    const Value& first = graph_.value(values.front());
    Node node;
    node.op = OpKind::Transfer;
    node.name = "transfer/" + first.name + "/to" + std::to_string(to.index());
    node.device = to;
    node.rate = first.rate;
    node.origin = first.name;
    if (first.kind == ValueKind::node) {
      const Node& producer = graph_.node(first.producer);
      node.phase = producer.phase;
      node.origin = producer.origin;
      node.anchor = rewriter_.node_at(producer.anchor.is_valid() ? producer.anchor : first.producer);
    }
    std::vector<Graph::OutputType> outputs;
    for (const ValueId id : values) {
      const Value& value = graph_.value(id);
      node.inputs.push_back(rewriter_.at(id));
      outputs.push_back({value.name + "@" + std::to_string(to.index()), value.dtype, value.shape, value.rate});
    }
    const NodeId added = rewriter_.graph().add_node(std::move(node), std::move(outputs));
    for (size_t i = 0; i < values.size(); ++i) needed_[{values[i], to}] = rewriter_.graph().node(added).outputs[i];
  }

  void copy_node(NodeId id) {
    const Node& old = graph_.node(id);
    const NodeId copy = rewriter_.copy(id);
    for (size_t k = 0; k < old.inputs.size(); ++k) {
      const auto local = needed_.find({old.inputs[k], old.device});
      if (local != needed_.end()) rewriter_.graph().node(copy).inputs[k] = local->second;
    }
  }

  const Graph& graph_;
  const Graph& sizes_;
  Rewriter rewriter_;
  std::vector<int> levels_;
  IdMap<ValueId, DeviceId> owner_;
  std::map<std::pair<ValueId, DeviceId>, ValueId> needed_;
  using GroupKey = std::tuple<DeviceId, DeviceId, Phase, bool, int>;  // from, to, phase, per step, the value when alone
  std::map<int, std::map<GroupKey, std::vector<ValueId>>> groups_;
};

}  // namespace

Graph insert_transfers(const Graph& graph) {
  return insert_transfers(graph, graph);
}

Graph insert_transfers(const Graph& graph, const Graph& sizes) {
  return TransferInserter(graph, sizes).run();
}

}  // namespace mpc
