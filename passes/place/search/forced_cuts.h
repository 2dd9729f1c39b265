#pragma once

#include "passes/place/search/instance.h"

namespace mpc::place {

// A lower bound from tensors that every good split must cut, or must not.
// Suppose a split has all loads below T. Then
//   - a tensor whose cost and whose maker's (or reader's) own load reach T together is not cut: what it joins is one
//     part from here on
//   - two parts that are together too slow or too large for any device are apart, so a tensor between them is cut: its
//     cost is part of the load of the one and of the other
// Both go on until nothing changes. A part that no device can take, so many parts that the ones some device must have
// are too many for it, or more seconds than the devices have below T, is a contradiction: no load of the largest device
// is below T. Bisection finds the largest T that is refuted.

/// A value that the largest load of no split is below: at least `least`, which must be one already, at most `value`,
/// that of a known split, which it equals when no split is better by more than 1e-9 of it. `least` where the instance
/// is too large or devices copy while they compute. O(log(1 / precision) * rounds * consumers) with at most a few dozen
/// rounds.
double forced_cuts_bound(const Instance& instance, double least, double value);

/// What every split with all loads below `value` keeps together: the number of each block's group.
std::vector<int> forced_groups(const Instance& instance, double value);

}  // namespace mpc::place
