#include "passes/batch_updates.h"

#include <algorithm>
#include <map>

#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

/// The tensors among a node's operands; its scalars stand after them.
size_t tensor_inputs(OpKind op) {
  switch (op) {
    case OpKind::SgdUpdate:
      return 2;
    case OpKind::MomentumUpdate:
      return 3;
    case OpKind::AdamUpdate:
      return 4;
    default:
      return 0;
  }
}

/// Do two optimizer nodes differ in nothing but their tensors?
bool are_alike(const Graph& graph, const Node& a, const Node& b) {
  const size_t tensors = tensor_inputs(a.op);
  return a.op == b.op && a.device == b.device && a.rate == b.rate && a.phase == b.phase &&
         a.attributes == b.attributes && graph.value(a.inputs[0]).dtype == graph.value(b.inputs[0]).dtype &&
         a.inputs.size() == b.inputs.size() &&
         std::equal(a.inputs.begin() + static_cast<ptrdiff_t>(tensors), a.inputs.end(),
                    b.inputs.begin() + static_cast<ptrdiff_t>(tensors));
}

using Batch = std::vector<NodeId>;

std::vector<Batch> find_batches(const Graph& graph) {
  const auto users = users_of(graph);
  std::vector<Batch> batches;
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    if (tensor_inputs(node.op) == 0) continue;
    const bool is_read =
        std::ranges::any_of(node.outputs, [&](ValueId output) { return !users[output.index()].empty(); });
    if (is_read) continue;
    const auto batch = std::ranges::find_if(
        batches, [&](const Batch& other) { return are_alike(graph, graph.node(other.front()), node); });
    if (batch != batches.end()) {
      batch->push_back(NodeId(i));
    } else {
      batches.push_back({NodeId(i)});
    }
  }
  return batches;
}

void write_batch(Rewriter& rewriter, const Batch& batch) {
  const Graph& source = rewriter.source();
  const Node& first = source.node(batch.front());
  const size_t tensors = tensor_inputs(first.op);
  std::vector<ValueId> inputs;
  NodeInfo info;
  for (const NodeId id : batch) {
    const Node& node = source.node(id);
    for (size_t i = 0; i < tensors; ++i) inputs.push_back(rewriter.at(node.inputs[i]));
    for (const ValueId output : node.outputs) info.output_names.push_back(source.value(output).name);
  }
  for (size_t i = tensors; i < first.inputs.size(); ++i) inputs.push_back(rewriter.at(first.inputs[i]));
  info.name = first.name;
  info.origin = first.origin;
  info.phase = first.phase;
  info.anchor = rewriter.node_at(first.anchor);
  const NodeId made = append(rewriter.graph(), first.op, std::move(inputs), first.attributes, std::move(info));
  Node& joint = rewriter.graph().node(made);
  joint.device = first.device;
  joint.rate = first.rate;
  size_t next = 0;
  for (const NodeId id : batch) {
    for (const ValueId output : source.node(id).outputs) {
      const ValueId result = joint.outputs[next++];
      rewriter.graph().value(result).rate = source.value(output).rate;
      rewriter.map(output, result);
    }
    rewriter.map_node(id, made);
  }
}

}  // namespace

bool is_batched(OpKind op) {
  return tensor_inputs(op) > 0;
}

Graph batch_updates(const Graph& graph) {
  std::map<NodeId, Batch> batch_at;  // by its last node
  std::vector<bool> is_batched(static_cast<size_t>(graph.node_count()), false);
  for (Batch& batch : find_batches(graph)) {
    if (batch.size() < 2) continue;
    for (const NodeId id : batch) is_batched[id.index()] = true;
    const NodeId last = batch.back();
    batch_at.emplace(last, std::move(batch));
  }
  Rewriter rewriter(graph);
  for (int i = 0; i < graph.node_count(); ++i) {
    const NodeId id(i);
    if (!is_batched[id.index()]) {
      rewriter.copy(id);
    } else if (const auto batch = batch_at.find(id); batch != batch_at.end()) {
      write_batch(rewriter, batch->second);
    }
  }
  return rewriter.finish(graph.stage);
}

}  // namespace mpc
