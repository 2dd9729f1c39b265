#pragma once

#include <optional>

#include "passes/place/search/linear.h"

namespace mpc::place {

/// The best split of any shape below `bound` by branch and bound, blocks in order of time: a branch ends when a device
/// has the bound already, when all devices together must exceed it, or when bytes do not fit; of unused devices of a
/// kind only the first is tried. For graphs of a few blocks.
struct ExhaustResult {
  bool is_complete = false;    // nothing below the bound was left out
  std::optional<Split> split;  // the best one below the bound
};
ExhaustResult split_exhaustively(const Instance& instance, double bound, Work& work);

}  // namespace mpc::place
