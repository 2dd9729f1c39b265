#include "passes/batch_casts.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

/// What is held for longer than one by one without a thought: a thousandth of what a layer of any size has.
constexpr int64_t kSmallBytes = int64_t{1} << 16;

/// What casts of one batch have in common: device, phase, rate, from and to.
using Kind = std::tuple<DeviceId, Phase, Rate, DType, DType>;

std::map<Kind, std::vector<NodeId>> find_batches(const Graph& graph) {
  const auto users = users_of(graph);
  const auto is_backward = [&](NodeId user) { return graph.node(user).phase != Phase::forward; };
  std::map<Kind, std::vector<NodeId>> batches;
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    if (node.op != OpKind::Cast || node.phase != Phase::forward || node.outputs.size() != 1) continue;
    const Value& from = graph.value(node.inputs[0]);
    const Value& to = graph.value(node.outputs[0]);
    const bool is_rounded_parameter = from.kind == ValueKind::parameter && is_float(from.dtype) && is_float(to.dtype);
    if (!is_rounded_parameter) continue;
    const bool is_held = std::ranges::any_of(users[node.outputs[0].index()], is_backward);
    if (is_held || to.bytes() <= kSmallBytes)
      batches[{node.device, node.phase, node.rate, from.dtype, to.dtype}].push_back(NodeId(i));
  }
  return batches;
}

void write_batch(Rewriter& rewriter, const std::vector<NodeId>& batch) {
  const Graph& source = rewriter.source();
  const Node& first = source.node(batch.front());
  std::vector<ValueId> inputs;
  NodeInfo info;
  info.name = first.name;
  info.origin = first.origin;
  info.phase = first.phase;
  for (const NodeId id : batch) {
    inputs.push_back(rewriter.at(source.node(id).inputs[0]));
    info.output_names.push_back(source.value(source.node(id).outputs[0]).name);
  }
  const NodeId made = append(rewriter.graph(), OpKind::Cast, std::move(inputs), first.attributes, std::move(info));
  Node& joint = rewriter.graph().node(made);
  joint.device = first.device;
  joint.rate = first.rate;
  for (size_t i = 0; i < batch.size(); ++i) {
    const ValueId old = source.node(batch[i]).outputs[0];
    rewriter.graph().value(joint.outputs[i]).rate = source.value(old).rate;
    rewriter.map(old, joint.outputs[i]);
    rewriter.map_node(batch[i], made);
  }
}

}  // namespace

Graph batch_casts(const Graph& graph) {
  std::map<NodeId, const std::vector<NodeId>*> batch_at;  // by its first node
  std::vector<bool> is_batched(static_cast<size_t>(graph.node_count()), false);
  const auto batches = find_batches(graph);
  for (const auto& [kind, batch] : batches) {
    if (batch.size() < 2) continue;
    for (const NodeId id : batch) is_batched[id.index()] = true;
    batch_at.emplace(batch.front(), &batch);
  }
  Rewriter rewriter(graph);
  for (int i = 0; i < graph.node_count(); ++i) {
    const NodeId id(i);
    if (!is_batched[id.index()]) {
      rewriter.copy(id);
    } else if (const auto batch = batch_at.find(id); batch != batch_at.end()) {
      write_batch(rewriter, *batch->second);
    }
  }
  return rewriter.finish(graph.stage);
}

}  // namespace mpc
