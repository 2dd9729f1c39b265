#pragma once

#include "passes/place/search/anneal.h"

namespace mpc::place {

// Splits of any shape, with whatever time there is: rounds of annealing with different temperatures and powers, from
// the best split, from the contiguous one and from nothing, each longer than the one before; after some of them every
// second round combines two of the best splits. Graphs of thousands of blocks are annealed as groups first, then with
// the groups taken apart level by level.

/// The best split found from `start` (which need not fit). @pre start gives a device to every block on which it may
/// run.
Split split_any(const Instance& instance, const Split& start, Random& random, Work& work);

}  // namespace mpc::place
