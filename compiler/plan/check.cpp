#include "compiler/plan/check.h"

#include <cmath>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/plan/check_parts.h"

namespace mpc {
namespace plan_check {

void refuse(const std::string& where, const std::string& what) {
  throw Error(ErrorId::M061, where, what, "make the plan again with mpc partition");
}

std::string node_text(const Plan& plan, PlanIndex node) {
  const PlanNode& n = plan.nodes[node];
  if (n.origin.empty()) return fmt::format("node '{}'", n.name);
  return fmt::format("node '{}' (from {})", n.name, n.origin);
}

std::string value_text(const Plan& plan, PlanIndex value) {
  return fmt::format("value '{}'", plan.values[value].name);
}

std::string transfer_text(const Plan& plan, PlanIndex transfer) {
  return fmt::format("transfer '{}'", plan.transfers[transfer].name);
}

std::string device_text(const Plan& plan, DeviceId device) {
  return fmt::format("device '{}'", plan.devices[device.index()].name);
}

std::string microbatch_text(int32_t microbatch) {
  return microbatch == kPerStep ? "" : fmt::format(", micro-batch {}", microbatch);
}

std::string instruction_text(const Plan& plan, PlanIndex index) {
  const Instruction& instruction = plan.instructions[index];
  std::string what;
  switch (instruction.action) {
    case Action::run:
      what = node_text(plan, instruction.index);
      break;
    case Action::send:
    case Action::recv:
      what = transfer_text(plan, instruction.index);
      break;
    case Action::feed:
      what = fmt::format("input '{}'", plan.inputs[instruction.index].name);
      break;
    case Action::fetch:
      what = fmt::format("output '{}'", plan.outputs[instruction.index].name);
      break;
    case Action::record:
    case Action::wait:
      what = fmt::format("event {}", instruction.index);
      break;
  }
  return fmt::format("instruction {} ({} {}{}, {} queue of {})", index, action_name(instruction.action), what,
                     microbatch_text(instruction.microbatch), queue_kind_name(plan.queues[instruction.queue].kind),
                     device_text(plan, plan.queues[instruction.queue].device));
}

bool is_cost(double value) {
  // Far above any real cost, and 2^32 of them add up to a finite number with room to spare.
  constexpr double kMostCost = 1e30;
  return std::isfinite(value) && value >= 0 && value <= kMostCost;
}

}  // namespace plan_check

void check_plan(const Plan& plan) {
  plan_check::check_head(plan);
  const plan_check::Facts facts = plan_check::check_tables(plan);
  plan_check::check_slices(plan, facts);
  plan_check::check_instructions(plan);
  plan_check::check_accesses(plan, facts);
}

}  // namespace mpc
