#include "api/profile_nodes.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "api/recency.h"
#include "compiler/base/text.h"
#include "compiler/cost/estimate.h"
#include "compiler/ops/builder.h"

namespace mpc::api {
namespace {

using executor::NodeSpec;

// What is a product, or made of products: only these compute otherwise in TF32.
constexpr OpKind kProducts[] = {OpKind::Conv,          OpKind::ConvInputGrad,  OpKind::ConvWeightGrad, OpKind::Gemm,
                                OpKind::GRU,           OpKind::GRUInputGrad,   OpKind::GRUWeightGrad,  OpKind::LSTM,
                                OpKind::LSTMInputGrad, OpKind::LSTMWeightGrad, OpKind::MatMul};

/// What tells two nodes apart for their kernel.
std::string identity(const ProfileNode& node) {
  std::string text = fmt::format("{} {} {} {}", op_name(node.key.op), node.key.is_training,
                                 arithmetic_name(node.key.arithmetic), node.flops);
  for (const auto* list : {&node.spec.inputs, &node.spec.outputs}) {
    for (const NodeSpec::Operand& operand : *list) {
      text += operand.is_present
                  ? fmt::format(" {}{}", type_text(operand.dtype, operand.shape), operand.is_constant ? "c" : "")
                  : std::string(" -");
    }
    text += ";";
  }
  for (const bool is_cold : node.options.is_cold) text += is_cold ? '-' : '+';
  return text;
}

/// What integers a node may read: rows of the table that a Gather takes them from, classes of a loss, the number of an
/// update. Otherwise zeros, which are in every range.
executor::MeasureOptions integers_of(OpKind op, const Attributes& attributes, const NodeSpec& spec) {
  executor::MeasureOptions options;
  switch (op) {
    case OpKind::Gather:
      options.integers = spec.inputs[0].shape[static_cast<int>(attributes.integer("axis"))];
      break;
    case OpKind::GatherGrad:
      options.integers = spec.outputs[0].shape[static_cast<int>(attributes.integer("axis"))];
      break;
    case OpKind::SgdUpdate:
    case OpKind::MomentumUpdate:
    case OpKind::AdamUpdate:
      options.least_integer = 1;
      break;
    case OpKind::SoftmaxCrossEntropyLoss:
    case OpKind::SoftmaxCrossEntropyLossGrad:
    case OpKind::NegativeLogLikelihoodLoss:
    case OpKind::NegativeLogLikelihoodLossGrad:
      for (const NodeSpec::Operand& operand : spec.inputs) {
        if (operand.is_present && is_float(operand.dtype) && operand.shape.rank() > 1)
          options.integers = operand.shape[1];
      }
      break;
    default:
      break;
  }
  return options;
}

}  // namespace

void add_nodes(const Plan& plan, const ProfiledDevice& device, ProfileNodes& nodes) {
  std::vector<std::vector<bool>> is_cold(plan.nodes.size());
  if (device.cache_bytes > 0) is_cold = cold_operands(plan, device.cache_bytes);
  std::vector<bool> is_updated(plan.values.size(), false);
  for (const PlanUpdate& update : plan.updates) is_updated[update.persistent] = true;
  const auto operand = [&](PlanIndex index) -> NodeSpec::Operand {
    if (index == kNone) return {};
    const PlanValue& value = plan.values[index];
    const bool is_fixed = value.kind == PlanValueKind::constant || value.kind == PlanValueKind::parameter;
    return {value.dtype, value.shapes.front(), true, is_fixed && !is_updated[index]};
  };
  for (size_t n = 0; n < plan.nodes.size(); ++n) {
    const PlanNode& node = plan.nodes[n];
    ProfileNode made;
    made.attributes = node.attributes.front();
    made.spec.op = node.op;
    for (const PlanIndex input : node.inputs) made.spec.inputs.push_back(operand(input));
    for (const PlanIndex output : node.outputs) made.spec.outputs.push_back(operand(output));
    NarrowestFloat narrowest;
    std::vector<int64_t> bytes_of_inputs;
    int64_t bytes_of_outputs = 0;
    for (const auto* list : {&node.inputs, &node.outputs}) {
      for (const PlanIndex index : *list) {
        if (index == kNone) continue;
        narrowest.add(plan.values[index].dtype);
        const int64_t bytes = plan.value_bytes(index, 0);
        if (list == &node.inputs)
          bytes_of_inputs.push_back(bytes);
        else
          bytes_of_outputs += bytes;
      }
    }
    made.bytes = static_cast<double>(moved_bytes(node.op, bytes_of_inputs, bytes_of_outputs));
    if (node.op == OpKind::Reshape) continue;  // a view
    made.key = {node.op, narrowest.arithmetic(false), !plan.updates.empty()};
    made.flops = node.flops.front();
    made.workspace_bytes = node.workspace_bytes;
    made.options = integers_of(node.op, made.attributes, made.spec);
    made.options.is_cold = is_cold[n];
    if (device.has_tf32 && made.key.arithmetic == Arithmetic::f32 &&
        std::ranges::find(kProducts, node.op) != std::end(kProducts)) {
      ProfileNode rounded = made;
      rounded.key.arithmetic = Arithmetic::tf32;
      nodes.emplace(identity(rounded), std::move(rounded));
    }
    nodes.emplace(identity(made), std::move(made));
  }
}

ProfileNode node_alone(OpKind op, DType dtype, const std::vector<Shape>& shapes) {
  Graph graph;
  std::vector<ValueId> inputs;
  for (const Shape& shape : shapes) inputs.push_back(graph.add_input("x", dtype, shape));
  const NodeId id = append(graph, op, inputs, {}, {"node", "", Phase::forward, {}, {}});
  ProfileNode made;
  made.key.op = op;
  made.attributes = graph.node(id).attributes;
  made.spec.op = op;
  for (const auto* list : {&graph.node(id).inputs, &graph.node(id).outputs}) {
    for (const ValueId value : *list) {
      NodeSpec::Operand operand{graph.value(value).dtype, graph.value(value).shape, true, false};
      (list == &graph.node(id).inputs ? made.spec.inputs : made.spec.outputs).push_back(operand);
    }
  }
  const OpQuantities quantities = quantities_of(graph, id);
  made.flops = quantities.flops;
  made.workspace_bytes = quantities.workspace_bytes;
  return made;
}

}  // namespace mpc::api
