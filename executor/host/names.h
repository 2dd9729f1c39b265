#pragma once

#include <span>
#include <string>
#include <string_view>

#include "compiler/base/error.h"

namespace mpc::executor {

/// The error for a name that the plan does not have, with the nearest of the names it has as hint.
Error unknown_name(ErrorId id, std::string_view what, const std::string& name, std::span<const std::string> known);

}  // namespace mpc::executor
