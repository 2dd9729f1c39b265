#include "compiler/ops/verify_types.h"

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

/// The first attribute that is not as inference leaves it.
std::string first_difference(const Attributes& stated, const Attributes& canonical) {
  for (const auto& [name, value] : canonical.items()) {
    const Attribute* found = stated.find(name);
    if (found == nullptr) return name;
    Attributes one;
    Attributes other;
    one.set(name, value);
    other.set(name, *found);
    if (!(one == other)) return name;
  }
  for (const auto& [name, value] : stated.items()) {
    if (!canonical.has(name)) return name;
  }
  return {};
}

}  // namespace

void check_types(OpKind op, const std::string& where, const Attributes& stated,
                 const std::vector<std::optional<TensorType>>& inputs,
                 const std::vector<std::optional<TensorType>>& outputs) {
  Attributes attributes = stated;
  const auto inferred = infer_types(op, where, attributes, inputs, static_cast<int>(outputs.size()));
  if (!(attributes == stated)) {
    throw Error(ErrorId::M031, where,
                fmt::format("attribute '{}' is not in its canonical form", first_difference(stated, attributes)));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i] || inferred[i] == outputs[i]) continue;
    const std::string stated_type = type_text(outputs[i]->dtype, outputs[i]->shape);
    throw Error(ErrorId::M034, where,
                inferred[i] ? fmt::format("output {} is stated as {}, its operands make it {}", i, stated_type,
                                          type_text(inferred[i]->dtype, inferred[i]->shape))
                            : fmt::format("output {} is stated as {}, but is not made", i, stated_type));
  }
}

void complete_attributes(Graph& graph) {
  for (int i = 0; i < graph.node_count(); ++i) {
    Node& node = graph.node(NodeId(i));
    const auto inputs = types_of(graph, node.inputs);
    infer_types(node.op, describe(node), node.attributes, inputs, static_cast<int>(node.outputs.size()));
    check_types(node.op, describe(node), node.attributes, inputs, types_of(graph, node.outputs));
  }
}

void verify_types(const Graph& graph) {
  try {
    for (const Node& node : graph.nodes()) {
      check_types(node.op, describe(node), node.attributes, types_of(graph, node.inputs),
                  types_of(graph, node.outputs));
    }
  } catch (const Error& error) {
    throw Error(ErrorId::M700, error.where(),
                fmt::format("in the {} graph: {}", stage_name(graph.stage), error.what_happened()),
                "this is a bug in mpc, please report it");
  }
}

}  // namespace mpc
