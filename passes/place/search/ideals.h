#pragma once

#include <optional>

#include "passes/place/search/linear.h"

namespace mpc::place {

// Contiguous splits, exactly: dynamic programming over the downward closed sets (ideals) of the order of blocks.
//   best[I][s] = min over ideals J of I and kinds of max(best[J][s - one device], load(I \ J))
// From every ideal where a stage can end in a split below the bound, smallest ideals first, the walk goes up the graph
// of ideals one block at a time, with the load updated in O(degree) and undone on the way back; it turns round when the
// stage alone is beyond the bound. Ideals are made when a walk meets them, pairs are never stored. A tight bound leaves
// few ideals to walk from (measured: 8 of 36,596), and which they are is only known from below. Chains have as many
// ideals as blocks; wide grids have too many (then `most_ideals` ends it).
// Source: Tarnawski et al. (NeurIPS 2020), section 5.1; the limits on where a stage may end are ours.

enum class IdealsEnd : uint8_t { done, too_many, out_of_work };

struct IdealsResult {
  IdealsEnd end = IdealsEnd::done;
  std::optional<Split> split;  // the optimum when done; nothing: no split is below the bound
};

/// The best contiguous split below `bound`. No split is below `least`: what is less counts as that much, so that fewer
/// ways to begin differ.
IdealsResult split_ideals(const Instance& instance, DeviceSets& sets, double least, double bound, int most_ideals,
                          Work& work);

}  // namespace mpc::place
