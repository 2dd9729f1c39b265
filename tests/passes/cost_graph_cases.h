#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "compiler/cost/cost_graph.h"
#include "passes/place/search/random.h"

// Cost graphs for tests of the search, and what is true of a split of one, by code that shares nothing with the search.

namespace mpc::place::test {

// Sums in another order differ by rounding: some dozen terms of about the same size.
inline constexpr double kRounding = 1e-9;
inline constexpr int64_t kShortWork = 200'000'000;

/// What a random cost graph is like: forward nodes with edges from lower to higher numbers, backward twins with the
/// edges reversed, now and then shared colours, colours with backward nodes only, and nodes that may not run
/// everywhere.
struct GraphOptions {
  int blocks = 6;
  int gpus = 3;
  int cpus = 0;
  bool is_training = false;
  double memory_share = 10;  // of a GPU, relative to an even split
  int one_without_time = 6;  // of so many nodes
};

CostGraph random_graph(uint64_t seed, const GraphOptions& options);

/// Blocks of one node each that take as long and send as large a tensor, without edges and memory.
CostGraph equal_blocks(int blocks, double seconds, double tensor_cost);

/// The same in a row: each block reads the tensor of the one before it.
CostGraph row_of_blocks(int blocks, double seconds, double tensor_cost);

/// The graph with its nodes and colours in a random order, and in another unit of time.
CostGraph rewritten(const CostGraph& graph, double unit, Random& random);

/// The scorer's rule, written down once more without any of the search's data structures: the largest load, or nothing
/// when the split is not allowed.
std::optional<double> naive_value(const CostGraph& graph, const std::vector<int>& device_of_node);

/// Can the devices be put in an order in which every stage only feeds later ones? Forward edges count, and those of
/// colours without forward nodes backwards.
bool is_staged(const CostGraph& graph, const std::vector<int>& device_of_node);

/// The least value over every assignment of colours, or infinity.
double brute_force(const CostGraph& graph, bool contiguous);

}  // namespace mpc::place::test
