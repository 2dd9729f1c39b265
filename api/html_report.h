#pragma once

#include <string>

#include "compiler/plan/plan.h"
#include "compiler/plan/simulate.h"

namespace mpc::api {

/// The plan as one self-contained HTML page that loads nothing: the split graph in blocks that open and close, the step
/// over time, memory per device with what is there when it is fullest, transfers. Names from the model are data in it,
/// never markup or script; the page's own content policy allows only the script and style written here.
/// @param measured  null: the step was not measured. @pre the plan passed check_plan.
std::string html_report(const Plan& plan, const Timeline* measured);

}  // namespace mpc::api
