#pragma once

#include <optional>
#include <vector>

#include "passes/place/problem.h"
#include "passes/place/routes.h"
#include "passes/place/search/linear.h"

namespace mpc::place {

// The dynamic program of search/linear.h where links differ: what a stage sends and receives is priced at the links to
// the stages before and behind it.
//   best[j][b] = min over i < j and steps (a, b) of max(best[i][a], load(blocks i..j-1 on the way of the step))
// A tensor that skips stages is priced like one that goes to the next: the caller evaluates the split that is found.

/// What the tensors of an instance move, in the units of links.
struct TensorMove {
  double moves = 0;  // 0 or 1: latencies
  double bytes = 0;
  double back_moves = 0;
  double back_bytes = 0;
};

/// @pre `instance.cost` is 0 throughout; [tensor of the instance].
struct LinkedInstance {
  Instance instance;
  std::vector<TensorMove> moves;
};

/// The best split of `order` along `routes` whose largest load is below `bound`, as split_linear. @pre sets.set_bound
/// was called with `bound`.
std::optional<Split> split_linked(const LinkedInstance& linked, const DeviceSets& sets, const Routes& routes,
                                  const std::vector<int>& order, const std::vector<char>& is_cut, double bound,
                                  Work& work, Least least);

}  // namespace mpc::place
