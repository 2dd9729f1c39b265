#include "compiler/ops/verify_types.h"

#include "compiler/ops/builder.h"

namespace mpc {

void verify_types(const Graph& graph) {
  for (const Node& node : graph.nodes()) {
    Attributes attributes = node.attributes;
    const auto inferred = infer_types(node.op, describe(node), attributes, types_of(graph, node.inputs), static_cast<int>(node.outputs.size()));
    MPC_CHECK(attributes == node.attributes, "the attributes of " + describe(node) + " are not canonical");
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (!node.outputs[i].is_valid()) continue;
      const Value& value = graph.value(node.outputs[i]);
      MPC_CHECK(inferred[i] && inferred[i]->dtype == value.dtype && inferred[i]->shape == value.shape,
                "output " + std::to_string(i) + " of " + describe(node) + " is stated as " + type_text(value.dtype, value.shape));
    }
  }
}

}  // namespace mpc
