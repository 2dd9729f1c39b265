#include "passes/levels.h"

#include <algorithm>
#include <limits>

namespace mpc {
namespace {

// What the backward pass makes of forward values alone (a transposed operand, an activation that is computed again)
// could run right after the forward pass, and would be kept from then on. It has the level of the first node that reads
// it.
void delay_what_needs_no_gradient(const Graph& graph, std::vector<int>& levels) {
  if (!graph.loss.is_valid()) return;
  const NodeId loss = graph.value(graph.loss).producer;  // gradients begin at its anchored nodes
  std::vector<bool> needs_gradient(static_cast<size_t>(graph.value_count()), false);
  std::vector<bool> may_wait(static_cast<size_t>(graph.node_count()), false);
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    if (phase_group(node.phase) == 0) continue;
    bool needs = node.anchor == loss;
    for (const ValueId input : node.inputs) needs = needs || (input.is_valid() && needs_gradient[input.index()]);
    may_wait[static_cast<size_t>(i)] = !needs && node.op != OpKind::Transfer && node.rate == Rate::per_microbatch;
    for (const ValueId output : node.outputs) {
      if (output.is_valid()) needs_gradient[output.index()] = !may_wait[static_cast<size_t>(i)];
    }
  }
  constexpr int kNever = std::numeric_limits<int>::max();
  std::vector<int> first_use(static_cast<size_t>(graph.value_count()), kNever);
  for (int i = graph.node_count() - 1; i >= 0; --i) {
    const Node& node = graph.node(NodeId(i));
    int& level = levels[static_cast<size_t>(i)];
    int first = kNever;
    for (const ValueId output : node.outputs) {
      if (output.is_valid()) first = std::min(first, first_use[output.index()]);
    }
    if (may_wait[static_cast<size_t>(i)] && first != kNever) level = std::max(level, first);
    for (const ValueId input : node.inputs) {
      if (!input.is_valid() || graph.value(input).kind != ValueKind::node) continue;
      const Node& producer = graph.node(graph.value(input).producer);
      const bool changes = producer.device != node.device || phase_group(producer.phase) != phase_group(node.phase);
      first_use[input.index()] = std::min(first_use[input.index()], level - (changes ? 1 : 0));
    }
  }
}

// An update writes over what others read: it comes after all of them, also after those that wait for a gradient from
// elsewhere. Nobody reads its results.
void delay_updates(const Graph& graph, std::vector<int>& levels) {
  std::vector<int> last_read(static_cast<size_t>(graph.value_count()), 0);
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    int& level = levels[static_cast<size_t>(i)];
    if (node.phase == Phase::update) {
      for (const ValueId input : node.inputs) {
        if (input.is_valid()) level = std::max(level, last_read[input.index()]);
      }
      continue;
    }
    for (const ValueId input : node.inputs) {
      if (input.is_valid() && graph.value(input).kind == ValueKind::parameter) {
        last_read[input.index()] = std::max(last_read[input.index()], level + 1);
      }
    }
  }
}

}  // namespace

int phase_group(Phase phase) {
  if (phase == Phase::forward) return 0;
  return phase == Phase::update ? 2 : 1;
}

std::vector<int> levels_of(const Graph& graph) {
  // For every value, where it was computed: through a transfer that is the device it came from.
  struct Made {
    int level = 0;
    DeviceId device;
    int group = 0;
  };
  std::vector<Made> made(static_cast<size_t>(graph.value_count()));
  std::vector<int> levels(static_cast<size_t>(graph.node_count()), 0);
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    if (node.op == OpKind::Transfer) {
      for (size_t k = 0; k < node.inputs.size(); ++k) {
        made[node.outputs[k].index()] = made[node.inputs[k].index()];
        levels[static_cast<size_t>(i)] = std::max(levels[static_cast<size_t>(i)], made[node.inputs[k].index()].level);
      }
      continue;
    }
    const int group = phase_group(node.phase);
    int level = 0;
    for (const ValueId input : node.inputs) {
      if (!input.is_valid() || !made[input.index()].device.is_valid()) continue;
      const Made& source = made[input.index()];
      level = std::max(level, source.level + (source.device != node.device || source.group != group ? 1 : 0));
    }
    // A gradient that needs no activation (of a constant factor, say) still comes after the node it belongs to.
    if (node.anchor.is_valid()) {
      const Node& anchor = graph.node(node.anchor);
      const bool changes = anchor.device != node.device || phase_group(anchor.phase) != group;
      level = std::max(level, levels[node.anchor.index()] + (changes ? 1 : 0));
    }
    levels[static_cast<size_t>(i)] = level;
    for (const ValueId output : node.outputs) {
      if (output.is_valid()) made[output.index()] = {level, node.device, group};
    }
  }
  delay_what_needs_no_gradient(graph, levels);
  delay_updates(graph, levels);
  return levels;
}

}  // namespace mpc
