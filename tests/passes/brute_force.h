#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "passes/place/problem.h"

namespace mpc::test {

/// A random graph of few blocks: batch 8, in training with Adam when asked.
Graph small_graph(uint64_t seed, bool is_training, int microbatches);

/// Calls `visit` with every split into stages on `used` devices: stage i on order[i], no tensor back to an earlier one.
void for_each_split(const place::Problem& problem, const std::vector<int>& order, int used,
                    const std::function<void(const std::vector<int>&)>& visit);

/// The least largest load of any split into stages on all devices that fits, in the cluster's order of devices or in
/// any; nothing when none fits.
std::optional<double> least_largest_load(const place::Problem& problem, bool in_any_order);

}  // namespace mpc::test
