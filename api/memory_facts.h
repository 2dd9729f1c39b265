#pragma once

#include <cstdint>
#include <vector>

#include "compiler/plan/plan.h"
#include "compiler/plan/simulate.h"

namespace mpc::api {

/// A slice that is alive at some moment.
struct LiveSlice {
  PlanIndex slice = 0;
  int64_t bytes = 0;
};

/// A device's memory during a step, and what is in it when it is fullest.
struct MemoryFacts {
  std::vector<MemoryPoint> points;
  MemoryPoint peak;
  std::vector<LiveSlice> at_peak;  // largest first; bytes that two slices share count once
};

/// Per device. O(instructions + slices log slices). @pre as memory_over_time.
std::vector<MemoryFacts> memory_facts(const Plan& plan, const Timeline& timeline);

}  // namespace mpc::api
