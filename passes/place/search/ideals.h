#pragma once

#include <optional>

#include "passes/place/search/linear.h"

namespace mpc::place {

// Contiguous splits, exactly: dynamic programming over the downward closed sets (ideals) of the order of blocks.
//   best[I][s] = min over ideals J of I and kinds of max(best[J][s - one device], load(I \ J))
// From every ideal that a split below the bound can pass through, the walk goes down the graph of ideals one block at a
// time, with the load updated in O(degree) and undone on the way back; it turns round when the stage alone is beyond
// the bound. Pairs are never stored. Chains have as many ideals as blocks; wide grids have too many (then `most_ideals`
// ends it).
// Source: Tarnawski et al. (NeurIPS 2020), section 5.1; the limits on where a stage may end are ours.

enum class IdealsEnd : uint8_t { done, too_many, out_of_work };

struct IdealsResult {
  IdealsEnd end = IdealsEnd::done;
  std::optional<Split> split;  // the optimum when done; nothing: no split is below the bound
};

/// The best contiguous split below `bound`.
IdealsResult split_ideals(const Instance& instance, DeviceSets& sets, double bound, int most_ideals, Work& work);

}  // namespace mpc::place
