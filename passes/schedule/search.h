#pragma once

#include <optional>
#include <vector>

#include "passes/schedule/play.h"

namespace mpc {

/// Searches orders from `start` on: a shorter step whose kept bytes stay within `most_kept_bytes` per device (empty: no
/// limit; a device that starts above it may not rise further). Deterministic; the work is bounded (search.cpp).
/// @return nothing when no order was better, or when every order takes more than `known_s` (shop.h).
std::optional<Schedule> improve(const Segments& segments, int microbatches, bool has_tail, const Schedule& start,
                                const std::vector<int64_t>& most_kept_bytes, double known_s);

}  // namespace mpc
