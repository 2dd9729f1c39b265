#pragma once

#include <optional>
#include <vector>

#include "passes/place/search/device_sets.h"
#include "passes/place/search/instance.h"
#include "passes/place/search/random.h"
#include "passes/place/search/work.h"

namespace mpc::place {

// Contiguous splits of one linear order: a stage is a run of consecutive blocks.
//   best[j][s] = min over i < j and kinds of max(best[i][s - one device], load(blocks i..j-1))
// The walk lowers i from cut to cut, O(kinds) each (run_load.h). Only cut points and states are kept that a
// split below the bound can have (DeviceSets), so a tight bound makes it fast: with k stages and a bound of (1 + e) of
// the average, about a k * e share of the ends is walked from.
// Cuts may be limited to chosen positions: the 100,000 node graphs are cut between buckets first (bucket_cuts), then
// around the cuts that were found.
// Source: the linearised DP of Tarnawski et al. (NeurIPS 2020).

/// A split and its value; which block is on which device.
struct Split {
  std::vector<int> device_of_block;
  double value = kForbidden;  // the largest load, when it fits
  double overflow = 0;        // bytes over capacity
};

/// What a split below the bound should have least of.
enum class Least : uint8_t { largest_load, transfers };  // transfers: seconds of all tensors, at both ends

inline constexpr int kMostKinds = 64;

/// The best split of `order` with stages that end at positions p with is_cut[p] (0 and the end always count), among
/// those whose largest load is below `bound`; its value is what `least` says. Nothing when there is none or the work is
/// over. @pre order is topological for instance.before; the instance has at most kMostKinds kinds.
std::optional<Split> split_linear(const Instance& instance, DeviceSets& sets, const std::vector<int>& order,
                                  const std::vector<char>& is_cut, double bound, Work& work,
                                  Least least = Least::largest_load);

/// The best split over growing bounds from `least` on, for when no bound is known.
std::optional<Split> split_linear_any(const Instance& instance, DeviceSets& sets, const std::vector<int>& order,
                                      const std::vector<char>& is_cut, double least, Work& work);

/// About `count` cut positions: in each of as many runs of equal time the one that the fewest seconds of tensors cross.
std::vector<char> bucket_cuts(const Instance& instance, const DeviceSets& sets, const std::vector<int>& order,
                              int count);

/// A topological order, breadth first: of the blocks that are ready the one that became so first.
std::vector<int> breadth_first_order(const Instance& instance);

/// A topological order, depth first: of the blocks that are ready the one that became so last, but one in
/// `one_in_random` at random (0: never). With stages, all blocks of a stage before those of a later one.
std::vector<int> depth_first_order(const Instance& instance, const std::vector<int>& stage_of_block, int one_in_random,
                                   bool from_the_end, Random& random);

}  // namespace mpc::place
