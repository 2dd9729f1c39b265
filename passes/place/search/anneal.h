#pragma once

#include <vector>

#include "passes/place/search/instance.h"
#include "passes/place/search/linear.h"
#include "passes/place/search/random.h"
#include "passes/place/search/work.h"

namespace mpc::place {

// Splits of any shape: simulated annealing on the device of every block.
//   state    device of each block, readers[t][d] of each tensor, load and memory of each device
//   energy   (sum over devices of (load / scale)^p)^(1/p), a soft maximum; bytes over capacity count as load, little
//            while it is hot and ever more at the end. A low power p lets blocks flow between loaded devices and finds
//            cheap cuts, a high one sees the largest load only: p may grow as the temperature falls
//   moves    a block to the device of a neighbour or to any; a connected clump of blocks; two blocks, or two clumps,
//            of two devices for each other; every third starts on the device with the largest load. Clumps for each
//            other are what balances a split that cuts little already: pieces change places and no cut is added
//            (layer-inceptionv3 on 6 GPUs, a million proposals: 0.49 % above the bound without, 0.38 % with). A clump
//            grows block by block, and as soon as what is moved is good enough it is accepted: thirty proposals for
//            the price of one (two million, on average: layer-resnet50-inference 33.884 -> 33.802, pd19-inception_v3
//            187.11 -> 186.81)
// Moving a block from a to b changes the loads of a and b only: for a third device q a tensor that the block makes
// arrives at q before and after, and one made on q and read by the block leaves q before and after. So a move is
// O(degree).

enum class Swaps : uint8_t { blocks, clumps };

/// Which of the splits met may be the result: with `after_heat` not the start, so that a run from a good split gives
/// another one to combine it with, though it be a little worse.
enum class Counts : uint8_t { all, after_heat };

struct AnnealOptions {
  double hot = 0.05;    // temperature at the start, relative to the energy
  double cold = 2e-5;   // and at the end
  int first_power = 8;  // p, a power of two from 4 on
  int last_power = 32;
  double ramp_begin = 0;  // share of the run after which p begins to grow
  int64_t proposals = 1'000'000;
  Swaps swaps = Swaps::clumps;  // what changes places; thousands of blocks are balanced by single ones
  Counts counts = Counts::all;
};

/// Anneals from `start`; the best split met that fits, or when none does the one with the least overflow.
/// @pre start respects where blocks may run.
Split anneal(const Instance& instance, const Split& start, const AnnealOptions& options, Random& random, Work& work);

}  // namespace mpc::place
