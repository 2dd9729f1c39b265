#pragma once

#include <cstdint>
#include <optional>

#include "executor/kernel.h"

namespace mpc::executor {

/// The position of the first NaN or infinity of a tensor; nothing when there is none or the dtype has none.
std::optional<int64_t> first_not_finite(const TensorView& tensor);

}  // namespace mpc::executor
