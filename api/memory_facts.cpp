#include "api/memory_facts.h"

#include <algorithm>
#include <limits>
#include <set>

#include "compiler/plan/slices.h"

namespace mpc::api {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

struct Life {
  double from_s = kNever;
  double to_s = -kNever;
};

/// When each slice holds something: from the start of what writes it to the end of what touches it last.
std::vector<Life> lives_of(const Plan& plan, const Timeline& timeline) {
  std::vector<Life> lives(plan.slices.size());
  for_each_timed(plan, timeline, [&](const Instruction& instruction, double start_s, double end_s) {
    for_each_slice(instruction, [&](PlanIndex slice) {
      lives[slice].from_s = std::min(lives[slice].from_s, start_s);
      lives[slice].to_s = std::max(lives[slice].to_s, end_s);
    });
  });
  for (size_t s = 0; s < lives.size(); ++s) {
    const PlanIndex value = plan.slices[s].value;
    if (value != kNone && is_kept(plan.values[value])) lives[s] = {-kNever, kNever};
  }
  return lives;
}

}  // namespace

std::vector<MemoryFacts> memory_facts(const Plan& plan, const Timeline& timeline) {
  const std::vector<Life> lives = lives_of(plan, timeline);
  std::vector<std::vector<MemoryPoint>> points = memory_over_time(plan, timeline);
  std::vector<MemoryFacts> facts(plan.devices.size());
  for (size_t d = 0; d < facts.size(); ++d) {
    facts[d].points = std::move(points[d]);
    for (const MemoryPoint& point : facts[d].points) {
      if (point.bytes > facts[d].peak.bytes) facts[d].peak = point;
    }
  }
  std::vector<std::set<std::pair<int64_t, int64_t>>> ranges(facts.size());
  for (size_t s = 0; s < lives.size(); ++s) {
    const PlanSlice& slice = plan.slices[s];
    MemoryFacts& device = facts[slice.device.index()];
    // A peak lasts from its point on: what ends at that very moment is gone, what begins there is in.
    if (lives[s].from_s > device.peak.time_s || lives[s].to_s <= device.peak.time_s) continue;
    if (!ranges[slice.device.index()].emplace(slice.offset, slice.bytes).second) continue;
    device.at_peak.push_back({static_cast<PlanIndex>(s), slice.bytes});
  }
  for (MemoryFacts& device : facts) {
    std::ranges::stable_sort(device.at_peak, [](const LiveSlice& a, const LiveSlice& b) { return a.bytes > b.bytes; });
  }
  return facts;
}

}  // namespace mpc::api
