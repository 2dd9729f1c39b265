#include "compiler/ir/graph.h"

#include <utility>

#include "compiler/base/error.h"

namespace mpc {

std::string_view phase_name(Phase phase) {
  constexpr std::string_view kNames[] = {"forward", "input_grad", "weight_grad", "update"};
  return kNames[static_cast<size_t>(phase)];
}

std::string_view stage_name(Stage stage) {
  constexpr std::string_view kNames[] = {"imported", "canonical", "training", "placed", "local"};
  return kNames[static_cast<size_t>(stage)];
}

std::string_view value_kind_name(ValueKind kind) {
  constexpr std::string_view kNames[] = {"input", "parameter", "state", "constant", "node"};
  return kNames[static_cast<size_t>(kind)];
}

std::string Graph::unique_value_name(std::string_view base) {
  return value_names_.claim(std::string(base));
}
std::string Graph::unique_node_name(std::string_view base) {
  return node_names_.claim(std::string(base));
}

ValueId Graph::add_value(Value value) {
  value.name = value_names_.claim(std::move(value.name));
  values_.push_back(std::move(value));
  return ValueId(values_.size() - 1);
}

ValueId Graph::add_input(std::string name, DType dtype, Shape shape, Rate rate) {
  Value value{.name = std::move(name),
              .dtype = dtype,
              .shape = shape,
              .kind = ValueKind::input,
              .rate = rate,
              .producer = {},
              .literal = {},
              .source = {}};
  const ValueId id = add_value(std::move(value));
  inputs.push_back(id);
  return id;
}

ValueId Graph::add_parameter(std::string name, DType dtype, Shape shape, std::string source, bool trainable) {
  Value value{.name = std::move(name),
              .dtype = dtype,
              .shape = shape,
              .kind = ValueKind::parameter,
              .rate = Rate::per_step,
              .producer = {},
              .literal = {},
              .source = std::move(source),
              .trainable = trainable};
  return add_value(std::move(value));
}

ValueId Graph::add_state(std::string name, Literal initial) {
  Value value{.name = std::move(name),
              .dtype = initial.dtype(),
              .shape = initial.shape(),
              .kind = ValueKind::state,
              .rate = Rate::per_step,
              .producer = {},
              .literal = std::move(initial),
              .source = {}};
  return add_value(std::move(value));
}

ValueId Graph::add_constant(std::string name, Literal literal) {
  Value value{.name = std::move(name),
              .dtype = literal.dtype(),
              .shape = literal.shape(),
              .kind = ValueKind::constant,
              .rate = Rate::per_step,
              .producer = {},
              .literal = std::move(literal),
              .source = {}};
  return add_value(std::move(value));
}

void Graph::reserve(int nodes, int values) {
  nodes_.reserve(static_cast<size_t>(nodes));
  values_.reserve(static_cast<size_t>(values));
  node_names_.reserve(static_cast<size_t>(nodes));
  value_names_.reserve(static_cast<size_t>(values));
}

NodeId Graph::add_node(Node node, std::vector<OutputType> outputs) {
  for (const ValueId input : node.inputs) {
    MPC_CHECK(!input.is_valid() || input.index() < values_.size(), "an operand of '" + node.name + "' does not exist");
  }
  const NodeId id(nodes_.size());
  node.name = node_names_.claim(std::move(node.name));
  node.outputs.clear();
  node.outputs.reserve(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    OutputType& type = outputs[i];
    if (type.name.empty()) {
      node.outputs.emplace_back();
      continue;
    }
    node.outputs.push_back(add_value(Value{.name = std::move(type.name),
                                           .dtype = type.dtype,
                                           .shape = type.shape,
                                           .kind = ValueKind::node,
                                           .rate = type.rate,
                                           .producer = id,
                                           .output_index = static_cast<int>(i),
                                           .literal = {},
                                           .source = {}}));
  }
  nodes_.push_back(std::move(node));
  return id;
}

std::vector<std::vector<NodeId>> users_of(const Graph& graph) {
  std::vector<std::vector<NodeId>> users(static_cast<size_t>(graph.value_count()));
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    for (const ValueId input : graph.nodes()[i].inputs) {
      if (input.is_valid()) users[input.index()].push_back(NodeId(i));
    }
  }
  return users;
}

std::string describe(const Node& node) {
  return "node \"" + node.name + "\" (" + std::string(op_name(node.op)) + ")";
}

}  // namespace mpc
