#include "compiler/plan/views.h"

#include "compiler/base/op_kind.h"

namespace mpc {
namespace {

bool lasts(const PlanValue& value) {
  const bool is_of_step = value.kind == PlanValueKind::temporary || value.kind == PlanValueKind::input;
  return !is_of_step || value.is_gradient;
}

bool is_first_present(const std::vector<PlanIndex>& operands) {
  return !operands.empty() && operands[0] != kNone;
}

bool are_alike(const Plan& plan, PlanIndex a, PlanIndex b) {
  const PlanValue& x = plan.values[a];
  const PlanValue& y = plan.values[b];
  if (lasts(x) || lasts(y) || x.per_step != y.per_step || x.dtype != y.dtype) return false;
  for (int variant = 0; variant < plan.variant_count(); ++variant) {
    if (plan.value_bytes(a, variant) != plan.value_bytes(b, variant)) return false;
  }
  return true;
}

}  // namespace

bool hands_on_bytes(OpKind op) {
  return op == OpKind::Reshape;
}

std::vector<PlanIndex> origins_of_bytes(const Plan& plan) {
  std::vector<PlanIndex> made_of(plan.values.size(), kNone);
  for (const PlanNode& node : plan.nodes) {
    if (!hands_on_bytes(node.op) || !is_first_present(node.inputs) || !is_first_present(node.outputs)) continue;
    if (are_alike(plan, node.inputs[0], node.outputs[0])) made_of[node.outputs[0]] = node.inputs[0];
  }
  // A plan's nodes may stand in any order, so each chain is followed to its begin; what is known ends it early.
  std::vector<PlanIndex> origins(plan.values.size(), kNone);
  std::vector<PlanIndex> chain;
  for (PlanIndex v = 0; v < plan.values.size(); ++v) {
    PlanIndex at = v;
    while (origins[at] == kNone && made_of[at] != kNone && chain.size() < plan.values.size()) {
      chain.push_back(at);
      at = made_of[at];
    }
    if (origins[at] == kNone) origins[at] = at;
    for (const PlanIndex link : chain) origins[link] = origins[at];
    chain.clear();
  }
  return origins;
}

bool is_view(const Plan& plan, const std::vector<PlanIndex>& origins, const Instruction& instruction) {
  if (instruction.action != Action::run || !hands_on_bytes(plan.nodes[instruction.index].op)) return false;
  if (!is_first_present(instruction.reads) || !is_first_present(instruction.writes)) return false;
  const PlanSlice& from = plan.slices[instruction.reads[0]];
  const PlanSlice& to = plan.slices[instruction.writes[0]];
  const bool is_one_range = from.device == to.device && from.offset == to.offset && from.bytes == to.bytes;
  return is_one_range && origins[from.value] == origins[to.value];
}

}  // namespace mpc
