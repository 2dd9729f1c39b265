#include "passes/place/parallel/alike_stages.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "compiler/base/random.h"
#include "passes/place/parallel/stages.h"

// Stages of repeated layers are weighed once. That must not change what is found.

namespace mpc::place {
namespace {

constexpr int kLayers = 12;
constexpr int kNodes = 2 * kLayers + 2;
constexpr int64_t kEnoughWork = 10'000'000'000;

ParallelChoice choice(double time, double parameters, double kept) {
  ParallelChoice choice;
  choice.time = time;
  choice.parameter_bytes = parameters;
  choice.bytes_per_microbatch = kept;
  choice.fixed_bytes = 2 * parameters;
  choice.bytes_over_replicas = 4 * parameters;
  return choice;
}

/// A first node, layers of two nodes each, and a last node, in a chain; node i of the chain has the number
/// number_of[i]. Whole numbers, so that sums are exact in any order.
ParallelGraph layered(const std::vector<int>& number_of) {
  ParallelGraph graph;
  graph.degrees = {1, 2};
  graph.devices = 16;
  graph.memory_bytes = 4096;
  graph.bytes_per_time = 4;
  graph.microbatches = 16;
  graph.nodes.resize(kNodes);
  for (int i = 0; i < kNodes; ++i) {
    ParallelNode& node = graph.nodes[static_cast<size_t>(number_of[static_cast<size_t>(i)])];
    node.id = i;
    if (i > 0) node.in = {i - 1};
    if (i + 1 < kNodes) {
      node.out = {i};
      graph.edges.push_back(
          {number_of[static_cast<size_t>(i)], number_of[static_cast<size_t>(i) + 1], i % 2 == 0 ? 8.0 : 24.0});
    }
    const bool is_end = i == 0 || i + 1 == kNodes;
    const double time = is_end ? 96 : i % 2 == 0 ? 64 : 32;
    for (const double width : {1.0, 2.0}) {
      ParallelChoice keeps = choice(time / width, 64 / width, 48 / width);
      ParallelChoice again = choice(time * 1.25 / width, 64 / width, 8);
      for (ParallelChoice* made : {&keeps, &again}) {
        made->sync_in.assign(node.in.size(), width - 1);
        made->sync_out.assign(node.out.size(), width - 1);
      }
      node.choices.push_back({keeps, again});
    }
  }
  return graph;
}

std::vector<int> in_order() {
  std::vector<int> numbers(kNodes);
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

std::vector<int> scattered() {
  std::vector<int> numbers = in_order();
  std::ranges::sort(numbers, {}, [](int i) { return mix_bits(static_cast<uint64_t>(i)); });
  return numbers;
}

TEST_CASE("alike stages: runs of equal layers are, from wherever they begin") {
  AlikeStages alike(layered(in_order()));
  CHECK(alike.class_count() == 4);  // the ends and the two nodes of a layer
  CHECK(alike.of({1, 2}) == std::pair<size_t, bool>(0, true));
  CHECK(alike.of({3, 4}) == std::pair<size_t, bool>(0, false));
  CHECK(alike.of({2, 3}) == std::pair<size_t, bool>(1, true));  // the second node of a layer first
  CHECK(alike.of({1, 2, 3, 4}) == std::pair<size_t, bool>(2, true));
  CHECK(alike.of({0, 1, 2}) == std::pair<size_t, bool>(3, true));
  CHECK(alike.of({7, 8, 9, 10}) == std::pair<size_t, bool>(2, false));
}

TEST_CASE("alike stages: one edge with other bytes tells two nodes apart") {
  ParallelGraph graph = layered(in_order());
  graph.edges[6].bytes += 1;  // from node 6 to node 7
  AlikeStages alike(graph);
  CHECK(alike.class_count() == 6);
  CHECK(alike.of({1, 2}).first == 0);
  CHECK(alike.of({3, 4}).first == 0);
  CHECK(alike.of({5, 6}) == std::pair<size_t, bool>(1, true));
  CHECK(alike.of({9, 10}).first == 0);
}

TEST_CASE("alike stages: the same layers are planned the same way where none are recognised") {
  const ParallelGraph repeated = layered(in_order());
  const std::vector<int> number_of = scattered();
  const ParallelGraph unlike = layered(number_of);  // the next layer is never as far
  CHECK(AlikeStages(unlike).class_count() > kNodes * 3 / 4);
  Work work(kEnoughWork);
  Work more_work(kEnoughWork);
  const ParallelResult once = search_stages(repeated, work);
  const ParallelResult each = search_stages(unlike, more_work);
  CHECK(work.left() > more_work.left());
  REQUIRE(once.fits);
  REQUIRE(each.fits);
  CHECK(once.time == each.time);
  CHECK(once.lower_bound == each.lower_bound);
  CHECK(once.is_optimal);
  REQUIRE(once.stages.size() == each.stages.size());
  CHECK(once.stages.size() > 1);
  for (size_t s = 0; s < once.stages.size(); ++s) {
    const ParallelStage& mine = once.stages[s];
    const ParallelStage& other = each.stages[s];
    CHECK(mine.degree == other.degree);
    CHECK(mine.replicas == other.replicas);
    CHECK(mine.in_flight == other.in_flight);
    CHECK(mine.time == other.time);
    CHECK(mine.memory_bytes == other.memory_bytes);
    std::vector<int> nodes;
    for (const int node : mine.nodes) nodes.push_back(number_of[static_cast<size_t>(node)]);
    std::ranges::sort(nodes);
    CHECK(nodes == other.nodes);
  }
}

}  // namespace
}  // namespace mpc::place
