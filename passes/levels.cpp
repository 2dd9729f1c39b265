#include "passes/levels.h"

#include <algorithm>
#include <limits>

#include "passes/recompute.h"

namespace mpc {
namespace {

// What is computed again needs no gradient, but is of no use before the gradients that read it: it has their level.
void delay_recomputed(const Graph& graph, std::vector<int>& levels) {
  std::vector<int> first_use(static_cast<size_t>(graph.value_count()), std::numeric_limits<int>::max());
  for (int i = graph.node_count() - 1; i >= 0; --i) {
    const Node& node = graph.node(NodeId(i));
    int& level = levels[static_cast<size_t>(i)];
    if (is_recomputed(node)) {
      int first = std::numeric_limits<int>::max();
      for (const ValueId output : node.outputs) {
        if (output.is_valid()) first = std::min(first, first_use[output.index()]);
      }
      if (first != std::numeric_limits<int>::max()) level = std::max(level, first);
    }
    for (const ValueId input : node.inputs) {
      if (input.is_valid()) first_use[input.index()] = std::min(first_use[input.index()], level);
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
  delay_recomputed(graph, levels);
  return levels;
}

}  // namespace mpc
