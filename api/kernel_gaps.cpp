#include "api/kernel_gaps.h"

#include <vector>

#include "executor/cuda/has_kernel.h"

namespace mpc::api {
namespace {

std::vector<executor::NodeSpec::Operand> operands_of(const Graph& graph, const std::vector<ValueId>& values) {
  std::vector<executor::NodeSpec::Operand> operands;
  for (const ValueId id : values) {
    if (id.is_valid()) {
      operands.push_back({graph.value(id).dtype, graph.value(id).shape, true, false});
    } else {
      operands.emplace_back();
    }
  }
  return operands;
}

}  // namespace

place::KernelRefusal known_kernel_gaps() {
  return [](const Graph& graph, NodeId id, std::string_view backend) -> std::string {
    if (backend != "cuda") return "";
    const Node& node = graph.node(id);
    executor::NodeSpec spec;
    spec.op = node.op;
    spec.attributes = &node.attributes;
    spec.inputs = operands_of(graph, node.inputs);
    spec.outputs = operands_of(graph, node.outputs);
    return cuda::refusal(spec);
  };
}

}  // namespace mpc::api
