#include <utility>

#include <doctest/doctest.h>

#include "passes/place/search/anneal.h"
#include "passes/place/search/canonical.h"
#include "passes/place/search/coarsen.h"
#include "passes/place/search/combine.h"
#include "passes/place/search/contract.h"
#include "passes/place/search/ideals.h"
#include "passes/place/search/linear.h"
#include "passes/place/search/run_load.h"
#include "tests/passes/cost_graph_cases.h"

// The parts that the search is made of, each alone.

namespace mpc::place::test {

TEST_CASE("search: nodes that are alike are in an order in which equal graphs are equal") {
  // Two rows of three nodes that nothing tells apart: the second nodes follow in the order of the first ones, and the
  // third ones in that of the second.
  CostGraph graph = equal_blocks(6, 10, 1);
  graph.gpus = 2;
  graph.edges = {{0, 3}, {1, 2}, {2, 5}, {3, 4}};
  const CostGraph canonical = reordered(graph, structural_order(graph));
  const std::vector<std::pair<int, int>> expected = {{0, 2}, {1, 3}, {2, 4}, {3, 5}};
  std::vector<std::pair<int, int>> edges;
  for (const CostEdge& edge : canonical.edges) edges.emplace_back(edge.from, edge.to);
  CHECK(edges == expected);
}

TEST_CASE("search: two splits combined are most often better than both") {
  int better_than_both = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    GraphOptions options;
    options.blocks = 60;
    options.gpus = 4;
    options.is_training = seed % 2 == 0;
    const Instance instance = contract(random_graph(seed, options), SplitKind::any).instance;
    Random random(seed);
    Work work(kShortWork);
    const auto annealed = [&] {
      Split start;
      for (int block = 0; block < instance.blocks; ++block) start.device_of_block.push_back(random.below(4));
      return anneal(instance, start, {0.05, 2e-5, 8, 32, 0, 2000}, random, work);
    };
    Elite elite;
    while (elite.size() < 2) elite.add(annealed());
    const auto [better, worse] = elite.any_two(random);
    CHECK(better->value < worse->value);
    const Split combined = combine(instance, *better, *worse, 2000, random, work);
    better_than_both += combined.value < better->value ? 1 : 0;
    CHECK(combined.value == doctest::Approx(loads_of(instance, combined.device_of_block).largest).epsilon(kRounding));
  }
  CHECK(better_than_both > 10);
}

TEST_CASE("search: tensors that two blocks have in common are one, and no load changes") {
  int fewer = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    CAPTURE(seed);
    GraphOptions options;
    options.blocks = 40;
    options.gpus = 3;
    options.cpus = 1;
    options.is_training = true;
    const Instance instance = contract(random_graph(seed, options), SplitKind::any).instance;
    const Instance merged = with_common_tensors(instance);
    CHECK(merged.blocks == instance.blocks);
    CHECK(merged.tensors() <= instance.tensors());
    fewer += merged.tensors() < instance.tensors() ? 1 : 0;
    Random random(seed);
    std::vector<int> device;
    for (int block = 0; block < instance.blocks; ++block) device.push_back(random.below(4));
    const Loads before = loads_of(instance, device), after = loads_of(merged, device);
    for (size_t d = 0; d < before.compute.size(); ++d) {
      // What a device sends may count as received: who makes a tensor and who reads it are alike here.
      CHECK(before.received[d] + before.sent[d] ==
            doctest::Approx(after.received[d] + after.sent[d]).epsilon(kRounding));
      CHECK(before.memory[d] == after.memory[d]);
    }
  }
  CHECK(fewer > 5);
}

TEST_CASE("search: groups that respect a split have its loads") {
  GraphOptions options;
  options.blocks = 200;
  options.gpus = 3;
  const Instance instance = contract(random_graph(12, options), SplitKind::any).instance;
  Random random(1);
  std::vector<int> device;
  for (int block = 0; block < instance.blocks; ++block) device.push_back(random.below(3));
  const std::vector<int> group = heavy_groups(instance, 40, device, random);
  const Instance coarse = grouped(instance, group);
  CHECK(coarse.blocks < instance.blocks);
  std::vector<int> device_of_group(static_cast<size_t>(coarse.blocks), -1);
  for (size_t i = 0; i < group.size(); ++i) {
    int& mine = device_of_group[static_cast<size_t>(group[i])];
    if (mine >= 0) CHECK(mine == device[i]);
    mine = device[i];
  }
  CHECK(loads_of(coarse, device_of_group).largest ==
        doctest::Approx(loads_of(instance, device).largest).epsilon(kRounding));
}

TEST_CASE("search: strong components are numbered against the edges") {
  Rows after;  // 0 <-> 1 -> 2, 3 alone
  after.items = {1, 0, 2};
  after.first = {0, 1, 3, 3, 3};
  int count = 0;
  const std::vector<int> component = strong_components(after, &count);
  CHECK(count == 3);
  CHECK(component[0] == component[1]);
  CHECK(component[1] > component[2]);
}

TEST_CASE("search: a run that grows from cut to cut sums what one that grows block by block does") {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    GraphOptions options;
    options.blocks = 12;
    options.cpus = static_cast<int>(seed % 2);
    options.is_training = seed % 3 != 0;
    Instance instance = contract(random_graph(seed + 4000, options), SplitKind::contiguous).instance;
    Random random(seed);
    if (seed % 4 == 0) {  // as models have them
      for (int b = 0; b < instance.blocks; ++b) {
        instance.kept.push_back(random.below(20));
        instance.kept_for_weights.push_back(random.below(20));
        instance.working.push_back(random.below(20));
      }
      for (int t = 0; t < instance.tensors(); ++t) {
        instance.received.push_back(random.below(20));
        instance.copied.push_back(random.below(20));
      }
    }
    const std::vector<int> order = depth_first_order(instance, {}, 3, false, random);
    std::vector<int> cuts{0};
    for (int i = 1; i < instance.blocks; ++i) {
      if (random.below(3) != 0) cuts.push_back(i);
    }
    cuts.push_back(instance.blocks);
    RunLoad<kFewKinds> run(instance, order, cuts);
    for (size_t end = 1; end < cuts.size(); ++end) {
      run.advance();
      StageLoad<kFewKinds> stage(instance);
      int position = cuts[end];
      while (run.begin() > 0) {
        run.extend();
        while (position > cuts[static_cast<size_t>(run.begin())]) stage.add(order[static_cast<size_t>(--position)]);
        const auto& a = run.totals();
        const auto& b = stage.totals();
        CHECK(a.time == b.time);
        CHECK(a.forbidden == b.forbidden);
        for (const auto& [mine, other] :
             {std::pair(a.received_s, b.received_s), std::pair(a.sent_s, b.sent_s), std::pair(a.memory, b.memory),
              std::pair(a.kept, b.kept), std::pair(a.kept_for_weights, b.kept_for_weights),
              std::pair(a.working, b.working), std::pair(a.received_bytes, b.received_bytes),
              std::pair(a.copied, b.copied)})
          CHECK(mine == other);  // all are sums of small whole numbers
      }
    }
  }
}

TEST_CASE("search: the exact program stops at its limits and says which") {
  GraphOptions options;
  options.blocks = 14;
  const CostGraph graph = random_graph(11, options);
  const Contraction contraction = contract(graph, SplitKind::contiguous);
  DeviceSets sets(contraction.instance);
  Work work(kShortWork);
  CHECK(split_ideals(contraction.instance, sets, 0, 1e9, 5, work).end == IdealsEnd::too_many);
  Work little(10);
  CHECK(split_ideals(contraction.instance, sets, 0, 1e9, 1000, little).end == IdealsEnd::out_of_work);
  CHECK(split_ideals(contraction.instance, sets, 0, 1e9, 100'000, work).end == IdealsEnd::done);
}

}  // namespace mpc::place::test
