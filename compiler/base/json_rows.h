#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/json.h"

namespace mpc {

/// Called with an element of an array as soon as it is complete: the array's key and the element's index.
using TakeJsonRow = std::function<void(std::string_view key, int64_t index, const Json& row)>;

/// parse_json for texts that are long because of a few arrays of rows: elements of the root's arrays under `keys` are
/// handed to `take` and not kept, so that their memory is that of one row. In the result these arrays are empty.
/// @throws as parse_json, and what `take` throws.
Json parse_json_rows(std::string_view text, ErrorId id, const std::string& where,
                     const std::vector<std::string_view>& keys, const TakeJsonRow& take, const JsonLimits& limits = {});

}  // namespace mpc
