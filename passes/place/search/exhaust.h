#pragma once

#include <optional>

#include "passes/place/search/linear.h"

namespace mpc::place {

/// The best split of any shape below `bound` by branch and bound. Next is the block with the most time and tensors to
/// those placed already; a branch ends when a device has the bound, when all devices together must exceed it, or when
/// bytes do not fit; of unused devices of a kind only the first is tried. For graphs of a few blocks, and for larger
/// ones whose tensors or bytes leave little choice (lat-layer-inceptionv3: 326 blocks on 12 GPUs, in milliseconds).
struct ExhaustResult {
  bool is_complete = false;    // nothing below the bound was left out
  std::optional<Split> split;  // the best one below the bound
};
ExhaustResult split_exhaustively(const Instance& instance, double bound, Work& work);

}  // namespace mpc::place
