#include <algorithm>

#include <doctest/doctest.h>

#include "passes/place/search/contract.h"
#include "passes/place/search/search.h"
#include "passes/place/search/weightless.h"
#include "tests/passes/cost_graph_cases.h"

// The planner's search against brute force and against a scorer that shares no code with it.

namespace mpc::place::test {
namespace {

GraphOptions options_of(uint64_t seed) {
  GraphOptions options;
  options.blocks = 3 + static_cast<int>(seed % 6);
  options.gpus = 1 + static_cast<int>(seed / 6 % 4);
  options.cpus = options.gpus < 4 && seed % 3 == 0 ? 1 : 0;
  options.is_training = seed % 2 == 0;
  options.memory_share = seed % 5 == 0 ? 1.3 : 10;
  return options;
}

/// What must hold of an answer, against the truth.
void check_answer(const CostGraph& graph, SplitKind kind, const SearchResult& result, double truth) {
  if (truth == kForbidden) {
    CHECK(!result.fits);
    return;
  }
  REQUIRE(result.fits);
  const std::optional<double> value = naive_value(graph, result.device_of_node);
  REQUIRE(value);
  CHECK(result.loads.largest == doctest::Approx(*value).epsilon(kRounding));
  CHECK(result.lower_bound <= truth * (1 + kRounding));
  CHECK(*value >= truth * (1 - kRounding));
  if (kind == SplitKind::contiguous) CHECK(is_staged(graph, result.device_of_node));
  if (result.is_optimal) CHECK(*value == doctest::Approx(truth).epsilon(kRounding));
  CHECK(*value <= truth * 1.02);
}

}  // namespace

TEST_CASE("search: on small random graphs both kinds of split equal brute force") {
  int proved[2] = {0, 0};
  constexpr uint64_t kSeeds = 240;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    CAPTURE(seed);
    const CostGraph graph = random_graph(seed, options_of(seed));
    for (const SplitKind kind : {SplitKind::contiguous, SplitKind::any}) {
      CAPTURE(kind == SplitKind::contiguous);
      const SearchResult result = search_split(graph, {kind, kShortWork});
      check_answer(graph, kind, result, brute_force(graph, kind == SplitKind::contiguous));
      proved[kind == SplitKind::any ? 1 : 0] += result.is_optimal ? 1 : 0;
    }
  }
  // Graphs of so few blocks are always searched to the end: a claim that is never made would be worth nothing.
  CHECK(proved[0] == kSeeds);
  CHECK(proved[1] >= kSeeds * 9 / 10);
}

TEST_CASE("search: ten to fourteen blocks, against brute force") {
  struct Row {
    uint64_t seed;
    int blocks;
    int gpus;
  };
  for (const Row& row : {Row{501, 10, 4}, Row{502, 11, 3}, Row{503, 12, 3}, Row{504, 14, 2}, Row{505, 13, 2}}) {
    CAPTURE(row.seed);
    GraphOptions options;
    options.blocks = row.blocks;
    options.gpus = row.gpus;
    options.is_training = row.seed % 2 == 0;
    const CostGraph graph = random_graph(row.seed, options);
    for (const SplitKind kind : {SplitKind::contiguous, SplitKind::any}) {
      const SearchResult result = search_split(graph, {kind, kShortWork});
      check_answer(graph, kind, result, brute_force(graph, kind == SplitKind::contiguous));
      CHECK(result.is_optimal);
    }
  }
}

TEST_CASE("search: blocks without time join the neighbour beside which they never cost more") {
  struct Row {
    const char* what;
    double into, out;  // cost of the tensors of the block without time
    int readers;
    std::vector<int> group_of_block;  // maker, block without time, readers
  };
  const Row rows[] = {{"what comes in costs more", 4, 3, 1, {0, 0, 1}},
                      {"what goes out costs more", 4, 5, 1, {0, 1, 1}},
                      {"two readers get less than came in", 4, 3, 2, {0, 0, 1, 2}},
                      {"two readers get more than came in", 4, 5, 2, {0, 1, 2, 3}}};
  for (const Row& row : rows) {
    CAPTURE(row.what);
    CostGraph graph;
    graph.gpus = 2;
    graph.gpu_memory_bytes = 100;
    for (int i = 0; i < 2 + row.readers; ++i) {
      CostNode node;
      node.id = node.color = graph.colors++;
      node.gpu_time = i == 1 ? 0 : 10;
      node.memory_bytes = 60;
      node.tensor_cost = i == 0 ? row.into : i == 1 ? row.out : 0;
      graph.nodes.push_back(node);
      if (i > 0) graph.edges.push_back({i == 1 ? 0 : 1, i});
    }
    const Folding folding = fold_weightless(contract(graph, SplitKind::contiguous).instance);
    CHECK(folding.group_of_block == row.group_of_block);
    for (const double bytes : folding.instance.memory) CHECK(bytes == 60);
    CHECK(folding.instance.after.size() == folding.instance.blocks);
  }
}

TEST_CASE("search: with many blocks without time stages equal brute force, in tight memory too") {
  int folded = 0;
  constexpr int kSeeds = 120;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    CAPTURE(seed);
    GraphOptions options = options_of(seed);
    options.one_without_time = 2;
    options.memory_share = 1.05 + 0.1 * static_cast<double>(seed % 4);
    const CostGraph graph = random_graph(seed + 2000, options);
    const Instance instance = contract(graph, SplitKind::contiguous).instance;
    folded += fold_weightless(instance).instance.blocks < instance.blocks ? 1 : 0;
    const SearchResult result = search_split(graph, {SplitKind::contiguous, kShortWork});
    check_answer(graph, SplitKind::contiguous, result, brute_force(graph, true));
    CHECK(result.is_optimal);
  }
  CHECK(folded >= kSeeds / 3);  // otherwise nothing was tried
}

TEST_CASE("search: neither the order of nodes nor the unit of time changes an optimum") {
  Random random(700);
  for (uint64_t seed = 700; seed < 720; ++seed) {
    CAPTURE(seed);
    GraphOptions options;
    options.blocks = 12;
    options.is_training = seed % 2 == 0;
    const CostGraph graph = random_graph(seed, options);
    const CostGraph other = rewritten(graph, 1e-6, random);
    for (const SplitKind kind : {SplitKind::contiguous, SplitKind::any}) {
      const SearchResult one = search_split(graph, {kind, kShortWork});
      const SearchResult two = search_split(other, {kind, kShortWork});
      REQUIRE(one.is_optimal);
      REQUIRE(two.is_optimal);
      CHECK(two.loads.largest == doctest::Approx(one.loads.largest * 1e-6).epsilon(kRounding));
    }
  }
}

TEST_CASE("search: however the file of a graph is written, the answer is the same, optimal or not") {
  Random random(720);
  int open = 0;
  for (uint64_t seed = 720; seed < 724; ++seed) {
    CAPTURE(seed);
    GraphOptions options;
    options.blocks = 120;
    options.gpus = 5;
    options.cpus = seed % 2 == 0 ? 1 : 0;
    options.is_training = seed % 4 < 2;
    options.memory_share = seed % 3 == 0 ? 1.1 : 10;
    const CostGraph graph = random_graph(seed, options);
    constexpr double kUnit = 17;
    const CostGraph other = rewritten(graph, kUnit, random);
    for (const SplitKind kind : {SplitKind::contiguous, SplitKind::any}) {
      const SearchResult one = search_split(graph, {kind, kShortWork / 4});
      const SearchResult two = search_split(other, {kind, kShortWork / 4});
      CHECK(two.loads.largest == doctest::Approx(one.loads.largest * kUnit).epsilon(kRounding));
      open += one.is_optimal ? 0 : 1;
    }
  }
  CHECK(open >= 4);  // an optimum has the same value whatever finds it
}

TEST_CASE("search: a free split is never worse than the contiguous one, however short its budget") {
  for (uint64_t seed = 5; seed < 7; ++seed) {
    CAPTURE(seed);
    GraphOptions options;
    options.blocks = 40;
    options.gpus = 4;
    options.is_training = seed % 2 == 0;
    options.memory_share = seed % 3 == 0 ? 1.2 : 10;
    const CostGraph graph = random_graph(seed + 40, options);
    const SearchResult staged = search_split(graph, {SplitKind::contiguous});
    if (!staged.fits) continue;
    for (const int64_t work : {1, 30'000'000}) {
      const SearchResult free = search_split(graph, {SplitKind::any, work});
      REQUIRE(free.fits);
      CHECK(free.loads.largest <= staged.loads.largest * (1 + kRounding));
    }
  }
}

TEST_CASE("search: the same input gives the same answer") {
  GraphOptions options;
  options.blocks = 60;
  options.is_training = true;
  const CostGraph graph = random_graph(9, options);
  for (const SplitKind kind : {SplitKind::contiguous, SplitKind::any}) {
    const SearchResult one = search_split(graph, {kind, kShortWork});
    const SearchResult two = search_split(graph, {kind, kShortWork});
    CHECK(one.device_of_node == two.device_of_node);
    CHECK(one.loads.largest == two.loads.largest);
  }
}

TEST_CASE("search: a split that fits tight memory is found where one is known") {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    CAPTURE(seed);
    GraphOptions options;
    options.blocks = 40;
    options.gpus = 4;
    CostGraph graph = random_graph(seed, options);
    // A known split: colours dealt out in turn; the memory of a GPU is just what its fullest one needs.
    std::vector<double> bytes(4, 0);
    for (const CostNode& node : graph.nodes) bytes[static_cast<size_t>(node.color % 4)] += node.memory_bytes;
    graph.gpu_memory_bytes = *std::max_element(bytes.begin(), bytes.end());
    const SearchResult result = search_split(graph, {SplitKind::any, kShortWork});
    REQUIRE(result.fits);
    CHECK(naive_value(graph, result.device_of_node));
  }
}

TEST_CASE("search: what cannot fit is said to be impossible, with the bytes that are missing") {
  GraphOptions options;
  options.blocks = 8;
  options.gpus = 2;
  options.memory_share = 0.5;  // both together hold half
  const CostGraph graph = random_graph(3, options);
  const SearchResult staged = search_split(graph, {SplitKind::contiguous, kShortWork});
  CHECK(!staged.fits);
  CHECK(staged.is_optimal);
  const SearchResult any = search_split(graph, {SplitKind::any, kShortWork});
  CHECK(!any.fits);
  CHECK(any.loads.overflow > 0);
}

TEST_CASE("search: a node that may run nowhere fits nowhere") {
  CostGraph graph = random_graph(4, {});
  graph.nodes[0].gpu_ok = false;
  for (const SplitKind kind : {SplitKind::contiguous, SplitKind::any}) {
    const SearchResult result = search_split(graph, {kind, kShortWork});
    CHECK(!result.fits);
    CHECK(result.is_optimal);
    CHECK(result.device_of_node.empty());
  }
}

TEST_CASE("search: more devices than blocks leave devices empty") {
  GraphOptions options;
  options.blocks = 3;
  options.gpus = 4000;
  options.memory_share = 1e5;
  const CostGraph graph = random_graph(5, options);
  const SearchResult result = search_split(graph, {SplitKind::any, kShortWork});
  REQUIRE(result.fits);
  CHECK(naive_value(graph, result.device_of_node));
}

TEST_CASE("search: a cycle of the forward graph stays on one stage, and a free split may cut it") {
  CostGraph graph = equal_blocks(2, 10, 1);
  graph.gpus = 2;
  graph.gpu_memory_bytes = 1;
  graph.edges = {{0, 1}, {1, 0}};
  const SearchResult staged = search_split(graph, {SplitKind::contiguous, kShortWork});
  CHECK(staged.loads.largest == 20);
  CHECK(staged.cyclic_blocks == 2);
  // 10 of compute, one tensor sent, one received.
  CHECK(search_split(graph, {SplitKind::any, kShortWork}).loads.largest == 12);
}

TEST_CASE("search: a long chain is cut into even stages") {
  CostGraph graph = row_of_blocks(20'000, 1, 2);
  graph.gpus = 8;
  graph.gpu_memory_bytes = 1;
  const SearchResult result = search_split(graph, {SplitKind::contiguous, 0});
  // With x in the six inner stages and x + 2 in the outer two, 6 x + 2 (x + 2) = 20,000 gives x = 2499.5, so the
  // largest inner stage has 2500 and pays 4.
  CHECK(result.loads.largest == 2504);
}

TEST_CASE("search: someone else may end it, and it says so") {
  GraphOptions options;
  options.blocks = 80;
  const CostGraph graph = random_graph(12, options);
  SearchOptions search{SplitKind::any, int64_t{1} << 50};
  search.should_stop = [] { return true; };
  const SearchResult result = search_split(graph, search);
  CHECK(result.was_stopped);
  CHECK(result.fits);
}

}  // namespace mpc::place::test
