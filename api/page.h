#pragma once

#include <string_view>

namespace mpc::api {

// The report's page, from api/page/ (api/CMakeLists.txt puts it into the program).
extern const std::string_view kPageBody;
extern const std::string_view kPageStyle;
extern const std::string_view kPageScript;

}  // namespace mpc::api
