#pragma once

#include <string>

#include "compiler/plan/plan.h"
#include "mpc/plan.h"

namespace mpc::api {

/// The plan as a picture in the DOT language: a cluster per device, transfers as coloured edges with their bytes.
/// Deterministic. O(nodes + edges) for level op; folding tries each name depth once.
std::string plan_dot(const Plan& plan, const v1::DotOptions& options);

}  // namespace mpc::api
