#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"
#include "passes/place/problem.h"

namespace mpc::place {

/// Why a backend ("cpu", "cuda") has no kernel for a node, or "". Given by who knows the backends; empty: all have all.
using KernelRefusal = std::function<std::string(const Graph& graph, NodeId node, std::string_view backend)>;

/// Pins every block that some backend of the cluster has no kernel for, and that no pin of the user's names, to the
/// first device whose backend has kernels for all of it.
/// @return one note per block that was pinned, naming node, device and reason.
/// @throws Error(M046) naming the nodes that no device of the cluster has a kernel for.
std::vector<std::string> pin_kernel_gaps(const Graph& graph, const Cluster& cluster, const KernelRefusal& refusal,
                                         Problem& problem);

}  // namespace mpc::place
