#include <algorithm>

#include <doctest/doctest.h>

#include "passes/place/search/coarsen.h"
#include "passes/place/search/contract.h"
#include "passes/place/search/device_sets.h"
#include "passes/place/search/forced_cuts.h"
#include "passes/place/search/spread_bound.h"
#include "tests/passes/cost_graph_cases.h"

// The search's lower bounds: against brute force, and where arithmetic says what they must be.

namespace mpc::place::test {

TEST_CASE("search: a bound counts the tensors that memory forces apart") {
  // Three blocks of 10 seconds in a row, each as large as a GPU; tensors of 7 and 3 seconds. Each block has its own
  // GPU, and the middle one receives 7 and sends 3: 20 seconds. Work alone says 10.
  CostGraph graph = row_of_blocks(3, 10, 3);
  graph.gpus = 3;
  graph.gpu_memory_bytes = 1;
  for (CostNode& node : graph.nodes) node.memory_bytes = 1;
  graph.nodes.front().tensor_cost = 7;
  const Instance instance = contract(graph, SplitKind::any).instance;
  CHECK(forced_cuts_bound(instance, 10, 20) == 20);
  CHECK(forced_cuts_bound(instance, 10, 30) == doctest::Approx(20).epsilon(kRounding));
}

TEST_CASE("search: a bound counts that costly tensors keep blocks together") {
  // Four blocks of 10 seconds in a row whose inner tensor costs 100: below 110 it is not cut, and its blocks take 20
  // together. The outer tensors are free.
  CostGraph graph = row_of_blocks(4, 10, 0);
  graph.gpus = 4;
  graph.gpu_memory_bytes = 1;
  graph.nodes[1].tensor_cost = 100;
  const Instance instance = contract(graph, SplitKind::any).instance;
  CHECK(forced_cuts_bound(instance, 10, 20) == 20);
  CHECK(forced_cuts_bound(instance, 10, 1000) == doctest::Approx(20).epsilon(kRounding));
}

TEST_CASE("search: no bound is above the best split, and memory makes some of them sharp") {
  constexpr uint64_t kSeeds = 150;
  int sharper = 0, spread_sharper = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    CAPTURE(seed);
    GraphOptions options;
    options.blocks = 3 + static_cast<int>(seed % 5);
    options.gpus = 2 + static_cast<int>(seed % 3);
    options.cpus = seed % 4 == 0 ? 1 : 0;
    options.is_training = seed % 2 == 0;
    options.memory_share = seed % 3 == 0 ? 10 : 1.2;
    CostGraph graph = random_graph(seed, options);
    for (CostNode& node : graph.nodes) node.tensor_cost *= seed % 5 == 0 ? 10 : 1;
    const double truth = brute_force(graph, false);
    if (truth == kForbidden) continue;
    const Instance instance = contract(graph, SplitKind::any).instance;
    const double least = work_bound(instance);
    for (const double known : {truth, 1.3 * truth, 3 * truth}) {
      const double bound = forced_cuts_bound(instance, least, known);
      CHECK(bound >= least);
      CHECK(bound <= truth * (1 + kRounding));
      sharper += bound > least * (1 + kRounding) ? 1 : 0;
      Random random(seed);
      Work work(1'000'000);
      const Instance groups = grouped(instance, forced_groups(instance, known));
      const double spread = spread_bound(groups, random, work);
      CHECK(std::min(spread, known) <= truth * (1 + kRounding));
      spread_sharper += spread > least * (1 + kRounding) ? 1 : 0;
    }
  }
  CHECK(sharper > 100);
  CHECK(spread_sharper > 50);
}

TEST_CASE("search: a bound counts what devices pay because no device can hold what is near a block") {
  // Eight blocks of 10 seconds in a row. Two devices: one cut, 40 and its tensor of 4 seconds, and no bound can say
  // more. Eight devices of one block's bytes each: every tensor is cut, and all devices together pay 80 seconds of work
  // and 7 tensors at both ends.
  CostGraph graph = row_of_blocks(8, 10, 4);
  for (CostNode& node : graph.nodes) node.memory_bytes = 1;
  const auto bound_of = [&](int gpus, double bytes) {
    graph.gpus = gpus;
    graph.gpu_memory_bytes = bytes;
    Random random(1);
    Work work(50'000'000);
    return spread_bound(contract(graph, SplitKind::any).instance, random, work);
  };
  const double two = bound_of(2, 8), eight = bound_of(8, 1), all = (80 + 7 * 2 * 4) / 8.0;
  CHECK(two > 41);  // work alone says 40
  CHECK(two <= 44);
  CHECK(eight > 0.95 * all);
  CHECK(eight <= all);
}

}  // namespace mpc::place::test
