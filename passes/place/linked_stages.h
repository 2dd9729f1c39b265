#pragma once

#include "passes/place/stages.h"

namespace mpc::place {

/// split_in_stages where links differ: which device follows which, and where the cuts are, is searched together. For
/// few devices, or many that are alike in nodes of machines, every order of them is in the dynamic program; otherwise
/// one in which each device is near the next. The best splits are improved by local moves.
/// @return what split_in_stages does, with the bound that holds if every tensor took the link that is best for it.
std::optional<Stages> split_over_links(const Problem& problem, const StageOptions& options);

}  // namespace mpc::place
