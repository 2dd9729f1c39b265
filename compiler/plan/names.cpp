#include <array>

#include "compiler/plan/plan.h"

namespace mpc {
namespace {

// A value outside the enumeration (a plan built wrongly in memory) has a name too, so that the checker can report it.
template <class Enum, size_t count>
std::string_view name_of(const std::array<std::string_view, count>& names, Enum value) {
  const auto index = static_cast<size_t>(value);
  return index < count ? names[index] : "unknown";
}

constexpr std::array<std::string_view, 7> kActions = {"run", "send", "recv", "feed", "fetch", "record", "wait"};
constexpr std::array<std::string_view, 4> kPhases = {"forward", "input_grad", "weight_grad", "update"};
constexpr std::array<std::string_view, 3> kQueueKinds = {"compute", "send", "recv"};
constexpr std::array<std::string_view, 5> kValueKinds = {"input", "parameter", "state", "constant", "temporary"};
constexpr std::array<std::string_view, 5> kRoles = {"data", "labels", "step", "learning_rate_scale", "label_share"};
constexpr std::array<std::string_view, 3> kCombines = {"concatenate", "sum", "last"};

}  // namespace

std::string_view action_name(Action action) {
  return name_of(kActions, action);
}
std::string_view plan_phase_name(PlanPhase phase) {
  return name_of(kPhases, phase);
}
std::string_view queue_kind_name(QueueKind kind) {
  return name_of(kQueueKinds, kind);
}
std::string_view plan_value_kind_name(PlanValueKind kind) {
  return name_of(kValueKinds, kind);
}
std::string_view input_role_name(PlanInput::Role role) {
  return name_of(kRoles, role);
}
std::string_view combine_name(PlanOutput::Combine combine) {
  return name_of(kCombines, combine);
}

}  // namespace mpc
