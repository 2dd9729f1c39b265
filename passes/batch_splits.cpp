#include "passes/batch_splits.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "passes/batch.h"

namespace mpc {
namespace {

/// What Splits of one batch have in common: device, phase, and axis, which is the last one.
using Kind = std::tuple<DeviceId, Phase, int64_t>;

bool may_join(const Graph& graph, const Node& node) {
  if (node.op != OpKind::Split || node.inputs.size() != 1 || node.phase == Phase::forward) return false;
  const Value& whole = graph.value(node.inputs[0]);
  const auto is_there = [](ValueId output) { return output.is_valid(); };
  return node.rate == Rate::per_step && whole.dtype == DType::f32 &&
         node.attributes.integer("axis") == whole.shape.rank() - 1 && std::ranges::all_of(node.outputs, is_there);
}

std::vector<Batch> find_batches(const Graph& graph) {
  std::map<Kind, std::vector<NodeId>> kinds;
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    if (!may_join(graph, node)) continue;
    kinds[{node.device, node.phase, node.attributes.integer("axis")}].push_back(NodeId(i));
  }
  const auto users = users_of(graph);
  std::vector<Batch> batches;
  for (auto& [kind, members] : kinds) {
    const NodeId place = members.back();
    std::erase_if(members, [&](NodeId id) {
      return std::ranges::any_of(graph.node(id).outputs, [&](ValueId output) {
        const auto& readers = users[output.index()];
        return !readers.empty() && readers.front() < place;
      });
    });
    if (members.size() > 1) batches.push_back({members, members.back()});
  }
  return batches;
}

void write_batch(Rewriter& rewriter, const Batch& batch) {
  std::vector<ValueId> inputs, outputs;
  std::vector<int64_t> split, parts;
  for (const NodeId id : batch.members) {
    const Node& node = rewriter.source().node(id);
    inputs.push_back(rewriter.at(node.inputs[0]));
    outputs.insert(outputs.end(), node.outputs.begin(), node.outputs.end());
    const std::vector<int64_t>& own = node.attributes.integers("split");
    split.insert(split.end(), own.begin(), own.end());
    parts.push_back(static_cast<int64_t>(own.size()));
  }
  Attributes attributes = rewriter.source().node(batch.members.front()).attributes;
  attributes.set("split", split);
  attributes.set("parts", parts);
  append_joint(rewriter, batch, batch.members.front(), std::move(inputs), std::move(attributes), outputs);
}

}  // namespace

Graph batch_splits(Graph graph) {
  const std::vector<Batch> batches = find_batches(graph);
  return write_batches(std::move(graph), batches, write_batch);
}

}  // namespace mpc
