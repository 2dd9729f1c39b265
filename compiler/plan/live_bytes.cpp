#include "compiler/plan/live_bytes.h"

#include <algorithm>
#include <map>

#include "compiler/base/checked.h"
#include "compiler/plan/slices.h"

namespace mpc {
namespace {

/// The first and the last instruction that a slice is needed for; kNone: no one touches it.
struct Life {
  PlanIndex first = kNone;
  PlanIndex last = kNone;
};

std::vector<Life> lives_of(const Plan& plan) {
  std::vector<Life> lives(plan.slices.size());
  const auto touch = [&](PlanIndex slice, PlanIndex first, PlanIndex last) {
    if (slice == kNone) return;
    if (lives[slice].first == kNone) lives[slice].first = first;
    lives[slice].last = last;
  };
  for (PlanIndex i = 0; i < plan.instructions.size(); ++i) {
    const Instruction& instruction = plan.instructions[i];
    // A send may read until its recv, the next instruction, is done.
    const PlanIndex done = instruction.action == Action::send ? i + 1 : i;
    for (const PlanIndex slice : instruction.reads) touch(slice, i, done);
    for (const PlanIndex slice : instruction.writes) touch(slice, i, i);
    touch(instruction.workspace, i, i);
  }
  for (PlanIndex s = 0; s < plan.slices.size(); ++s) {
    const PlanIndex value = plan.slices[s].value;
    if (value != kNone && is_kept(plan.values[value])) lives[s] = {0, static_cast<PlanIndex>(plan.instructions.size())};
  }
  return lives;
}

}  // namespace

std::vector<int64_t> most_live_bytes(const Plan& plan) {
  const std::vector<Life> lives = lives_of(plan);
  std::vector<std::vector<PlanIndex>> begins(plan.instructions.size() + 1);
  std::vector<std::vector<PlanIndex>> ends(plan.instructions.size() + 1);
  for (PlanIndex s = 0; s < plan.slices.size(); ++s) {
    if (lives[s].first == kNone) continue;
    begins[lives[s].first].push_back(s);
    ends[lives[s].last].push_back(s);
  }
  std::vector<std::map<int64_t, int>> users(plan.devices.size());  // of each offset
  std::vector<int64_t> live(plan.devices.size(), 0);
  std::vector<int64_t> most(plan.devices.size(), 0);
  const auto bytes_of = [](const PlanSlice& slice) {
    return align_up(std::max<int64_t>(slice.bytes, 1), kSliceAlignment);
  };
  for (size_t i = 0; i < begins.size(); ++i) {
    for (const PlanIndex s : begins[i]) {
      const PlanSlice& slice = plan.slices[s];
      const size_t d = slice.device.index();
      if (users[d][slice.offset]++ == 0) live[d] += bytes_of(slice);
      most[d] = std::max(most[d], live[d]);
    }
    for (const PlanIndex s : ends[i]) {
      const PlanSlice& slice = plan.slices[s];
      const size_t d = slice.device.index();
      if (--users[d][slice.offset] == 0) live[d] -= bytes_of(slice);
    }
  }
  return most;
}

}  // namespace mpc
