#pragma once

#include <vector>

#include "compiler/cost/cost_graph.h"
#include "passes/place/search/instance.h"

namespace mpc::place {

// From nodes to blocks. Nodes of one colour are one block. For contiguous splits a stage is a set of forward nodes with
// their backward twins, so the order that counts is that of the forward graph; a colour with backward nodes only gets
// an artificial forward twin whose edges mirror its backward ones. Blocks on a common cycle of that order are one
// block. What takes no time and has one neighbour joins it: there it never costs more. Source: Tarnawski et al.,
// Efficient Algorithms for Device Placement (NeurIPS 2020), section 5.3 and appendix.

enum class SplitKind : uint8_t { contiguous, any };

struct Contraction {
  Instance instance;
  std::vector<int> block_of_node;
  int cyclic_blocks = 0;  // colours on a common cycle with another, for contiguous splits
};

/// The blocks of `graph`. For SplitKind::any the instance has no order of blocks. O((N + E) log N).
Contraction contract(const CostGraph& graph, SplitKind kind);

/// Strongly connected components of the graph `after`: the component of every vertex, numbered so that edges lead from
/// higher to lower numbers. Iterative. O(V + E). Source: Tarjan 1972.
std::vector<int> strong_components(const Rows& after, int* count);

}  // namespace mpc::place
