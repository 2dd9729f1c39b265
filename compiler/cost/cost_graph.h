#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mpc {

// A graph of measured costs: what the planner needs to know of a network, without the network. One value per node
// moves, however many edges it has: the tensor that the node makes.

/// A node of a cost graph, in the time unit of its file.
struct CostNode {
  int64_t id = 0;  // as the file names it
  double gpu_time = 0;
  double cpu_time = 0;  // of one core; without meaning when !cpu_ok
  double memory_bytes = 0;
  double tensor_cost = 0;  // to move what it makes between a GPU and host memory; 0 without out-edges
  int color = 0;           // nodes of one colour share a device; colours are 0..colors-1
  bool is_backward = false;
  bool gpu_ok = true;
  bool cpu_ok = false;
};

/// An edge between two nodes, by their index.
struct CostEdge {
  int from = 0;
  int to = 0;
};

/// Nodes in the order of the file, edges sorted and without duplicates, equal GPUs and equal CPU cores.
struct CostGraph {
  std::string name;
  std::string time_unit;
  std::vector<CostNode> nodes;
  std::vector<CostEdge> edges;
  int colors = 0;
  int gpus = 0;
  int cpus = 0;
  double gpu_memory_bytes = 0;
  // What published profiles have and what does not count; said once, so that nothing is silent.
  int64_t repeated_nodes = 0;  // rows that repeat a node of no time and no bytes
  int64_t self_loops = 0;      // edges from a node to itself
};

/// Reads a cost graph from JSON (docs/cli.md has the format); keys it does not know are passed over. `where` names the
/// file in messages. O(N + E).
/// @throws Error(M066) naming the node or edge for a malformed graph, Error(M046) for a graph of another kind,
/// Error(M051) beyond a limit.
CostGraph parse_cost_graph(std::string_view json, const std::string& where);

}  // namespace mpc
