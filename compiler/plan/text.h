#pragma once

#include <string>
#include <string_view>

#include "compiler/plan/plan.h"

namespace mpc {

/// The plan as JSON (docs/plan.md). The same plan gives the same bytes; parse_plan(print_plan(p)) is an equal plan.
std::string print_plan(const Plan& plan);

/// Reads a plan. Checks only that the text has the form of a plan (types, ranges of enumerations and indices);
/// check_plan() proves the rest. `where` names the file in errors. @throws Error(M060, M062 for another version).
Plan parse_plan(std::string_view text, const std::string& where);

}  // namespace mpc
