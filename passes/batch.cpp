#include "passes/batch.h"

#include <map>
#include <utility>

#include "compiler/ops/builder.h"

namespace mpc {

Graph write_batches(Graph graph, const std::vector<Batch>& batches,
                    const std::function<void(Rewriter&, const Batch&)>& write) {
  if (batches.empty()) return graph;
  std::map<NodeId, const Batch*> batch_at;  // by its place
  std::vector<bool> is_member(static_cast<size_t>(graph.node_count()), false);
  for (const Batch& batch : batches) {
    for (const NodeId id : batch.members) is_member[id.index()] = true;
    batch_at.emplace(batch.place, &batch);
  }
  Rewriter rewriter(graph);
  for (int i = 0; i < graph.node_count(); ++i) {
    const NodeId id(i);
    if (!is_member[id.index()]) {
      rewriter.copy(id);
    } else if (const auto batch = batch_at.find(id); batch != batch_at.end()) {
      write(rewriter, *batch->second);
    }
  }
  return rewriter.finish(graph.stage);
}

void append_joint(Rewriter& rewriter, const Batch& batch, NodeId like, std::vector<ValueId> inputs,
                  Attributes attributes, const std::vector<ValueId>& outputs) {
  const Graph& source = rewriter.source();
  const Node& node = source.node(like);
  NodeInfo info;
  info.name = node.name;
  info.origin = node.origin;
  info.phase = node.phase;
  info.anchor = node.anchor.is_valid() ? rewriter.node_at(node.anchor) : node.anchor;
  for (const ValueId output : outputs) info.output_names.push_back(source.value(output).name);
  const NodeId made = append(rewriter.graph(), node.op, std::move(inputs), std::move(attributes), std::move(info));
  Node& joint = rewriter.graph().node(made);
  joint.device = node.device;
  joint.rate = node.rate;
  for (size_t i = 0; i < outputs.size(); ++i) {
    rewriter.graph().value(joint.outputs[i]).rate = source.value(outputs[i]).rate;
    rewriter.map(outputs[i], joint.outputs[i]);
  }
  for (const NodeId id : batch.members) rewriter.map_node(id, made);
}

}  // namespace mpc
