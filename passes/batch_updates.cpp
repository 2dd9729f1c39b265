#include "passes/batch_updates.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "passes/batch.h"

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
        batches, [&](const Batch& other) { return are_alike(graph, graph.node(other.members.front()), node); });
    if (batch != batches.end()) {
      batch->members.push_back(NodeId(i));
      batch->place = NodeId(i);
    } else {
      batches.push_back({{NodeId(i)}, NodeId(i)});
    }
  }
  std::erase_if(batches, [](const Batch& batch) { return batch.members.size() < 2; });
  return batches;
}

void write_batch(Rewriter& rewriter, const Batch& batch) {
  const Graph& source = rewriter.source();
  const Node& first = source.node(batch.members.front());
  const size_t tensors = tensor_inputs(first.op);
  std::vector<ValueId> inputs, outputs;
  for (const NodeId id : batch.members) {
    const Node& node = source.node(id);
    for (size_t i = 0; i < tensors; ++i) inputs.push_back(rewriter.at(node.inputs[i]));
    outputs.insert(outputs.end(), node.outputs.begin(), node.outputs.end());
  }
  for (size_t i = tensors; i < first.inputs.size(); ++i) inputs.push_back(rewriter.at(first.inputs[i]));
  append_joint(rewriter, batch, batch.members.front(), std::move(inputs), first.attributes, outputs);
}

}  // namespace

bool is_batched(OpKind op) {
  return tensor_inputs(op) > 0;
}

Graph batch_updates(Graph graph) {
  const std::vector<Batch> batches = find_batches(graph);
  return write_batches(std::move(graph), batches, write_batch);
}

}  // namespace mpc
