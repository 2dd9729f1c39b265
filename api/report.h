#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "compiler/plan/plan.h"
#include "mpc/compile.h"

namespace mpc::api {

/// The table of `mpc partition`: devices, transfers, balance, times, warnings.
std::string report_text(const Plan& plan);
/// The JSON of `mpc partition --json` (docs/cli.md).
std::string report_json(const Plan& plan);
/// Its "devices": a row each.
nlohmann::ordered_json devices_json(const Plan& plan);
/// The same for a model that fits nowhere.
std::string report_text(const v1::NoPlan& reasons);
std::string report_json(const v1::NoPlan& reasons);

}  // namespace mpc::api
