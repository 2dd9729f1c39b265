#pragma once

#include "passes/place/search/instance.h"
#include "passes/place/search/random.h"
#include "passes/place/search/work.h"

namespace mpc::place {

// A lower bound from how far a split has to spread the blocks (spreading metrics).
// Call a tensor's length 1 when it is cut and 0 otherwise. Let T be the largest load of a split. From any block u, the
// blocks of any set U that are not on u's device take at least w(U) - T seconds, and each is at least 1 away:
//     sum over v in U of w(v) * length of any way from u to v  >=  w(U) - T
// and the same with bytes and a device's capacity. Weigh such rows with numbers so that no tensor gets more than 2 c(t)
// of weight, what it costs at both ends when it is cut: their sum is at most what all devices together pay for tensors,
// and with the work W of all blocks
//     k T  >=  W + sum of weight * (w(U) - T) + sum of weight * (bytes(U) - capacity),
// which is solved for T. Any weights give a bound. Good ones are the flow of a linear program that is never written
// down: again and again the row that gains most for the length of its ways gets some weight, where a tensor is the
// longer the more weight it has already. Sources: Even, Naor, Rao, Schieber, J. ACM 2000 (spreading metrics); Garg and
// Koenemann, FOCS 1998 (flows by lengths).

/// A value that the largest load of no split is below; 0 where it knows none (devices of several kinds, or that copy
/// while they compute). Ends when the work is over or more of it gains nothing.
double spread_bound(const Instance& instance, Random& random, Work& work);

}  // namespace mpc::place
