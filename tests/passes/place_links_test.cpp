// The place pass where links differ, against brute force: every split of a small graph into stages, on every order of
// the devices.

#include <doctest/doctest.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/random.h"
#include "compiler/ir/parse.h"
#include "passes/pipeline.h"
#include "passes/place/evaluate.h"
#include "tests/passes/brute_force.h"
#include "tests/support/random_graph.h"

namespace {

using namespace mpc;
using place::Problem;

// Sums in another order differ by rounding.
constexpr double kRounding = 1e-9;
// What the search may be above the best split where it does not claim to have it.
constexpr double kWithin = 1.02;
constexpr int kMicrobatches = 4;

/// Links of which each is up to 100 times slower than the best, drawn from the seed; both ways are drawn.
Cluster cluster_of(uint64_t seed, int devices) {
  Cluster cluster = uniform_cluster(*find_device_kind("cpu"), devices);
  uint64_t state = seed;
  for (Link& link : cluster.links) {
    state = mix_bits(state + 1);
    const double factor = 1 + static_cast<double>(state % 1000) / 10;
    link.bytes_per_second /= factor;
    state = mix_bits(state + 1);
    link.latency_s *= static_cast<double>(state % 1000) / 500;
  }
  return cluster;
}

Problem problem_of(const Graph& graph, const Cluster& cluster) {
  Problem problem = place::make_problem(graph, cluster, {}, kMicrobatches);
  place::attach_followers(graph, problem);
  return problem;
}

Placement placed(const Graph& graph, const Cluster& cluster) {
  PlaceOptions options;
  options.microbatches = kMicrobatches;
  return place_nodes(graph, cluster, options);
}

}  // namespace

TEST_CASE("place: with links of which no two are alike the plan is within 2 % of brute force, and its bound holds") {
  constexpr int kMostBlocks[] = {0, 0, 14, 12, 10};
  int compared = 0;
  int proved = 0;
  double worst = 1;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    const int devices = 2 + static_cast<int>(seed % 3);
    const Graph graph = test::small_graph(seed, seed / 3 % 2 == 0, kMicrobatches);
    const Cluster cluster = cluster_of(seed, devices);
    const Problem problem = problem_of(graph, cluster);
    const auto free_blocks = std::ranges::count(problem.follows, -1);
    if (free_blocks > kMostBlocks[devices] || free_blocks < devices) continue;
    const std::optional<double> truth = test::least_largest_load(problem, true);
    if (!truth) continue;  // what must stay together leaves fewer stages than devices
    const Placement placement = placed(graph, cluster);
    ++compared;
    const double value = placement.objective_value;
    worst = std::max(worst, value / *truth);
    CHECK(value >= *truth * (1 - kRounding));
    CHECK(value <= *truth * kWithin);
    CHECK(placement.lower_bound <= *truth * (1 + kRounding));
    if (placement.lower_bound < value * (1 - kRounding)) continue;
    ++proved;
    CHECK(value == doctest::Approx(*truth).epsilon(kRounding));
  }
  MESSAGE(compared << " compared, " << proved << " said to be the least, at most " << worst << " of it");
  CHECK(compared >= 80);
  CHECK(proved > 0);
}

namespace {

/// Products of 64 rows in a row; the numbers that leave product i are widths[i + 1] a row.
Graph products(const std::vector<int>& widths) {
  std::string text = fmt::format("graph \"products\" imported\ninput %v0 f32[64,{}]\n", widths.front());
  for (size_t i = 1; i < widths.size(); ++i)
    text += fmt::format("parameter %w{} f32[{},{}] from \"w{}\"\n", i, widths[i - 1], widths[i], i);
  for (size_t i = 1; i < widths.size(); ++i)
    text += fmt::format("%v{} f32[64,{}] = MatMul(%v{}, %w{}) @product{}\n", i, widths[i], i - 1, i, i);
  return parse_graph(text + fmt::format("output y = %v{}\n", widths.size() - 1));
}

/// (devices, node by node) How often tensors go from one node of machines to the other, and how many bytes.
struct Crossing {
  int count = 0;
  int64_t bytes = 0;
};
Crossing crossing_of(const Graph& graph, const Placement& placement, int devices_per_node) {
  Crossing crossing;
  for (int i = 0; i < graph.node_count(); ++i) {
    for (const ValueId input : graph.node(NodeId(i)).inputs) {
      const Value& value = graph.value(input);
      if (value.kind != ValueKind::node) continue;
      const size_t from = placement.device_of_node[value.producer.index()].index();
      const size_t to = placement.device_of_node[static_cast<size_t>(i)].index();
      if (from / static_cast<size_t>(devices_per_node) == to / static_cast<size_t>(devices_per_node)) continue;
      ++crossing.count;
      crossing.bytes += value.bytes();
    }
  }
  return crossing;
}

/// `count` GPUs in nodes of `per_node`, numbered so that neighbours by number are in different nodes if `is_mixed`.
Cluster nodes_of(int count, int per_node, double bytes_per_second, bool is_mixed) {
  Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), count);
  link_nodes(cluster, per_node, bytes_per_second);
  if (!is_mixed) return cluster;
  const auto old = [&](size_t d) { return d % 2 * static_cast<size_t>(per_node) + d / 2; };
  Cluster mixed = cluster;
  for (size_t a = 0; a < cluster.devices.size(); ++a) {
    for (size_t b = 0; b < cluster.devices.size(); ++b) {
      Link link = cluster.link(DeviceId(old(a)), DeviceId(old(b)));
      link.from = DeviceId(a);
      link.to = DeviceId(b);
      mixed.links[a * cluster.devices.size() + b] = link;
    }
  }
  return mixed;
}

}  // namespace

TEST_CASE("place: of two nodes with slow links between them one cut lies between them, where the least is sent") {
  // 32 products, four for each device; what product 16 leaves is a tenth of what the others do, so the cut that crosses
  // belongs behind it.
  std::vector<int> widths(33, 4096);
  widths[16] = 400;
  const Graph graph = products(widths);
  const Placement placement = placed(graph, nodes_of(8, 4, 5e9, false));
  CHECK(std::set<DeviceId>(placement.device_of_node.begin(), placement.device_of_node.end()).size() == 8);
  const Crossing crossing = crossing_of(graph, placement, 4);
  CHECK(crossing.count == 1);
  CHECK(crossing.bytes == 64 * 400 * 4);
}

TEST_CASE("place: what the devices are called does not matter where links decide which follows which") {
  std::vector<int> widths(33, 4096);
  widths[16] = 400;
  const Graph graph = products(widths);
  const Placement plain = placed(graph, nodes_of(8, 4, 5e9, false));
  const Placement mixed = placed(graph, nodes_of(8, 4, 5e9, true));
  CHECK(mixed.objective_value == doctest::Approx(plain.objective_value).epsilon(kRounding));
}

TEST_CASE("place: splits over two nodes of two devices are those of brute force") {
  for (const double bytes_per_second : {1e8, 1e9, 1e10, 1e11}) {
    CAPTURE(bytes_per_second);
    const Graph graph = products({512, 2048, 768, 512, 1024, 256, 2048, 512, 1536, 512, 512, 3072, 512});
    const Cluster cluster = nodes_of(4, 2, bytes_per_second, false);
    const std::optional<double> truth = test::least_largest_load(problem_of(graph, cluster), true);
    REQUIRE(truth);
    CHECK(placed(graph, cluster).objective_value == doctest::Approx(*truth).epsilon(kRounding));
  }
}

TEST_CASE("place: no cut lies at a slow link in the middle when the devices can be taken in another order") {
  // A ring of four with one slow link: 1 - 2. Devices 2, 3, 0, 1 in this order never use it.
  Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), 4);
  for (Link& link : cluster.links) {
    const size_t from = link.from.index();
    const size_t to = link.to.index();
    const bool is_middle = (from == 1 && to == 2) || (from == 2 && to == 1);
    if (is_middle) link.bytes_per_second = 1e8;
  }
  const Graph graph = products(std::vector<int>(13, 2048));
  const Placement placement = placed(graph, cluster);
  for (int i = 0; i + 1 < graph.node_count(); ++i) {
    const size_t from = placement.device_of_node[static_cast<size_t>(i)].index();
    const size_t to = placement.device_of_node[static_cast<size_t>(i) + 1].index();
    CHECK_FALSE((from == 1 && to == 2));
    CHECK_FALSE((from == 2 && to == 1));
  }
  CHECK(placement.objective_value == doctest::Approx(placement.lower_bound).epsilon(kRounding));
}

TEST_CASE("place: more nodes of machines than orders of them can be tried are taken one after another") {
  // Twelve nodes of four: 5^12 sets of devices. A node has 40 of 480 equal products, and eleven cuts have to cross.
  const Graph graph = products(std::vector<int>(481, 1024));
  const Placement placement = placed(graph, nodes_of(48, 4, 1e10, false));
  CHECK(std::set<DeviceId>(placement.device_of_node.begin(), placement.device_of_node.end()).size() == 48);
  CHECK(crossing_of(graph, placement, 4).count == 11);
}

TEST_CASE("place: pins are obeyed where links differ") {
  const Graph graph = products(std::vector<int>(13, 2048));
  PlaceOptions options;
  options.pins = {{"^product1$", 3}, {"^product12$", 1}};
  const Placement placement = place_nodes(graph, nodes_of(4, 2, 1e9, false), options);
  CHECK(placement.device_of_node[0] == DeviceId(3));
  CHECK(placement.device_of_node[11] == DeviceId(1));
}
