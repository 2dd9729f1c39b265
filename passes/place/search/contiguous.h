#pragma once

#include <limits>
#include <vector>

#include "passes/place/search/linear.h"

namespace mpc::place {

/// A contiguous split and what is known of it.
struct ContiguousSplit {
  Split split;              // no devices when nothing fits
  bool is_optimal = false;  // no contiguous split is better (or none fits)
  const char* method = "";  // what found it
};

struct ContiguousOptions {
  int most_ideals = 0;      // 0: no exact attempt
  int64_t exact_work = 0;   // units for it
  int64_t search_work = 0;  // units for better orders after the first ones, when it was not exact
  int orders = 40;          // to begin with, for graphs of few blocks
  // What models ask for beside a small largest load.
  int least_devices = 0;  // with at least one block
  int most_devices = std::numeric_limits<int>::max();
  int microbatches = 1;           // of a step: stages hold the activations of several
  HeldMicrobatches held;          // of them
  std::vector<int> device_order;  // of the stages; empty: whichever is best
  /// Below 0: the best value alone counts. 0: of the splits of the best value found, the one with the fewest seconds of
  /// transfers. More: also a split that is slower by up to this share, where it saves much. Infinite: the fewest
  /// seconds of transfers, whatever the value.
  double transfer_slack = -1;
};

/// The best contiguous split that the linearised programs over several orders, the exact program, and a search over
/// orders find. The search keeps the stages as they are and takes random orders within them: the split it has is among
/// those of every such order, so it never gets worse.
ContiguousSplit split_contiguous(const Instance& instance, const ContiguousOptions& options, Random& random,
                                 Work& work);

/// Stages numbered along the order of blocks: [device], -1 for a device without blocks. @pre the split is contiguous.
std::vector<int> stages_of(const Instance& instance, const std::vector<int>& device_of_block);

}  // namespace mpc::place
