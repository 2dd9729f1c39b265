#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// Makes every operand local: one Transfer per (value, destination device), never two. Small values (under 64 KiB) that
/// are made in the same segment and go to the same device leave together, in one Transfer. Nodes are put in the order
/// (level, id), so that a joint transfer stands after all its sources and before all its readers.
/// Graph inputs and constants need none: they are fed to every device that reads them, and so is a parameter that no
/// step replaces. One that is trained lives on the device of its first reader and is sent once per step to others.
/// @pre stage placed.   @post stage local. O((N + E) log N). @throws Error(M700) if a node has no device.
Graph insert_transfers(const Graph& graph);
/// The same, where the values of `sizes`, a graph of the same structure, say what is small: the graphs of both sizes of
/// micro-batch must get the same transfers.
Graph insert_transfers(const Graph& graph, const Graph& sizes);

}  // namespace mpc
