#pragma once

#include <vector>

#include "compiler/ir/graph.h"

namespace mpc::place {

/// How the forward nodes of a graph are computed by `degree` devices together (tensor parallel).
struct Sharding {
  struct NodeShare {
    bool is_divided = false;      // every device does one part of the work, otherwise each does all of it
    double reduced_forward = 0;   // bytes that the devices sum up after (or gather before) the node
    double reduced_backward = 0;  // the same for its gradients
  };
  std::vector<NodeShare> nodes;        // [node]; only forward ones are set
  std::vector<char> is_value_divided;  // [value]: every device holds one part of it
};

/// Shards as Megatron-LM does (Shoeybi et al., 2019), found from the operators alone: a product of a whole value with a
/// weight divides the columns of the weight and of the result; a product of a value that is divided along the summed
/// dimension divides the rows, and its results are summed up; what lies between works on the part it has, as long as
/// its dimension is only carried along. A value that an operator cannot take in parts is gathered. Embedding tables are
/// divided by rows, and softmax and cross-entropy over a divided dimension exchange a few numbers per row. O(nodes).
Sharding shard(const Graph& graph, int degree);

}  // namespace mpc::place
