#pragma once

#include <optional>

#include "compiler/ir/graph.h"

namespace mpc {

enum class RowUse { inference, training };

/// A node whose result for one row of a batch depends on other rows, so that micro-batches give other results than the
/// whole batch: a softmax over the rows, or a mean of them that comes back to them. Batch normalization is left out: in
/// training its statistics are known to be those of a micro-batch. Dimensions that differ between the two graphs are
/// taken for rows. What rows become that never meets a row again, a loss for example, counts only as an output of
/// inference. @pre the graphs have the same structure, and are for different numbers of rows. O(N + E).
std::optional<NodeId> node_across_rows(const Graph& some, const Graph& more, RowUse use);

}  // namespace mpc
