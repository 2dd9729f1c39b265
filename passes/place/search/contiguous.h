#pragma once

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
};

/// The best contiguous split that the linearised programs over several orders, the exact program, and a search over
/// orders find. The search keeps the stages as they are and takes random orders within them: the split it has is among
/// those of every such order, so it never gets worse.
ContiguousSplit split_contiguous(const Instance& instance, const ContiguousOptions& options, Random& random,
                                 Work& work);

/// Stages numbered along the order of blocks: [device], -1 for a device without blocks. @pre the split is contiguous.
std::vector<int> stages_of(const Instance& instance, const std::vector<int>& device_of_block);

}  // namespace mpc::place
