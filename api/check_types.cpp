#include "api/check_types.h"

#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/ops/verify_types.h"

namespace mpc::api {
namespace {

std::vector<std::optional<TensorType>> types_of(const Plan& plan, const std::vector<PlanIndex>& values,
                                                size_t variant) {
  std::vector<std::optional<TensorType>> types;
  types.reserve(values.size());
  for (const PlanIndex index : values) {
    if (index == kNone) {
      types.emplace_back();
      continue;
    }
    const PlanValue& value = plan.values[index];
    types.push_back(TensorType{value.dtype, value.shapes[value.shapes.size() > 1 ? variant : 0]});
  }
  return types;
}

void check_variant(const Plan& plan, const PlanNode& node, size_t variant) {
  const std::string where =
      fmt::format("node '{}' ({}){}", node.name, op_name(node.op), variant == 0 ? "" : ", in the last micro-batch");
  const Attributes& attributes = node.attributes[node.attributes.size() > 1 ? variant : 0];
  const auto inputs = types_of(plan, node.inputs, variant);
  const auto outputs = types_of(plan, node.outputs, variant);
  try {
    check_types(node.op, where, attributes, inputs, outputs);
  } catch (const Error& error) {
    // Whatever the operator finds, to the user it is the plan that is wrong.
    if (error.id() == ErrorId::M700) throw;
    throw Error(ErrorId::M061, where, error.what_happened(), error.hint());
  }
  const int64_t workspace_bytes = op_quantities(node.op, CostContext{attributes, inputs, outputs}).workspace_bytes;
  if (node.workspace_bytes >= workspace_bytes) return;
  throw Error(ErrorId::M061, where,
              fmt::format("has {} bytes of workspace and needs {}", node.workspace_bytes, workspace_bytes));
}

}  // namespace

void check_node_types(const Plan& plan) {
  for (const PlanNode& node : plan.nodes) {
    const int variants = node.per_step ? 1 : plan.variant_count();
    for (int variant = 0; variant < variants; ++variant) check_variant(plan, node, static_cast<size_t>(variant));
  }
}

}  // namespace mpc::api
