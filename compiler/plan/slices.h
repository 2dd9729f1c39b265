#pragma once

#include "compiler/plan/plan.h"

namespace mpc {

/// Calls f(slice) for every slice an instruction touches: what it reads, writes and works in.
template <class F>
void for_each_slice(const Instruction& instruction, F&& f) {
  for (const PlanIndex s : instruction.reads) {
    if (s != kNone) f(s);
  }
  for (const PlanIndex s : instruction.writes) {
    if (s != kNone) f(s);
  }
  if (instruction.workspace != kNone) f(instruction.workspace);
}

/// Do the bytes of a value belong to it for the whole step, used or not? What holds from step to step does, and so do
/// accumulated gradients and the inputs of a step: both may be read after it.
inline bool is_kept(const PlanValue& value) {
  switch (value.kind) {
    case PlanValueKind::parameter:
    case PlanValueKind::state:
    case PlanValueKind::constant:
      return true;
    case PlanValueKind::input:
      return value.per_step;
    case PlanValueKind::temporary:
      return value.is_gradient;
  }
  return true;
}

}  // namespace mpc
