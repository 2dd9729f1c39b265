// The place pass against brute force: every split of a small graph into stages, on every order of the devices.

#include <doctest/doctest.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/ir/parse.h"
#include "passes/pipeline.h"
#include "passes/place/evaluate.h"
#include "passes/place/problem.h"
#include "tests/passes/brute_force.h"
#include "tests/support/random_graph.h"

namespace {

using namespace mpc;
using place::Problem;

// Sums in another order differ by rounding.
constexpr double kRounding = 1e-9;
constexpr int kMostBlocks = 14;
constexpr int64_t kBatch = 8;

struct Case {
  uint64_t seed = 0;
  int devices = 2;
  int microbatches = 1;
  bool is_training = false;
  bool has_unequal_devices = false;
  double memory_share = 10;  // of a device, relative to an even split of what one device would need
};

Case case_of(uint64_t seed) {
  Case c;
  c.seed = seed;
  c.devices = 2 + static_cast<int>(seed % 3);
  c.is_training = seed / 3 % 2 == 0;
  c.microbatches = seed / 6 % 2 == 0 ? 4 : 2;
  c.has_unequal_devices = seed % 5 == 0;
  c.memory_share = seed % 4 == 0 ? 1.3 : 10;
  return c;
}

Graph graph_of(const Case& c) {
  PlanOptions options;
  options.batch = kBatch;
  options.microbatches = c.microbatches;
  options.train = c.is_training;
  options.loss = LossKind::mse;
  options.optimizer.optimizer = parse_optimizer("adam,lr=0.01");
  test::RandomGraphOptions size;
  size.steps = 5 + static_cast<int>(c.seed % 4);
  const auto of_rows = [&](int64_t rows) { return test::random_graph(c.seed, rows, size); };
  return make_front_graphs(of_rows, kBatch, options, "random graph").main;
}

Cluster cluster_of(const Case& c) {
  Cluster cluster = uniform_cluster(*find_device_kind(c.seed % 2 == 0 ? "h100-80g" : "cpu"), c.devices);
  if (c.has_unequal_devices) {
    DeviceRates& rates = cluster.devices[0].rates;
    for (double* rate : {&rates.flops_f32, &rates.bytes_per_second}) *rate /= 3;
    rates.launch_s *= 2;
  }
  return cluster;
}

void cap_memory(const Graph& graph, const Case& c, Cluster& cluster) {
  Problem problem = place::make_problem(graph, cluster, {}, c.microbatches);
  place::attach_followers(graph, problem);
  const std::vector<int> together(static_cast<size_t>(problem.block_count), 0);
  const double bytes = static_cast<double>(place::evaluate(problem, together).memory_bytes[0]);
  for (Device& device : cluster.devices) device.memory_bytes = static_cast<int64_t>(c.memory_share * bytes / c.devices);
}

// What they hold is estimated each in its way.
constexpr ScheduleKind kSchedules[] = {ScheduleKind::one_f_one_b, ScheduleKind::gpipe, ScheduleKind::zb_h1,
                                       ScheduleKind::sequential};

}  // namespace

TEST_CASE("place: on small random graphs the plan's largest load equals brute force where it is said to be the least") {
  int compared = 0;
  int proved = 0;
  int capped = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    const Case c = case_of(seed);
    const Graph graph = graph_of(c);
    Cluster cluster = cluster_of(c);
    cap_memory(graph, c, cluster);
    Problem problem = place::make_problem(graph, cluster, {}, c.microbatches);
    place::attach_followers(graph, problem);
    problem.held = held_microbatches(kSchedules[seed % std::size(kSchedules)], 1);
    const auto free_blocks = std::ranges::count(problem.follows, -1);
    if (free_blocks > kMostBlocks || free_blocks < c.devices) continue;
    const std::optional<double> truth = test::least_largest_load(problem, c.has_unequal_devices);
    PlaceOptions options;
    options.microbatches = c.microbatches;
    options.held = problem.held;
    const Placement placement = place_nodes(graph, cluster, options);
    if (!truth) continue;  // what is done then has tests of its own
    ++compared;
    capped += c.memory_share < 2 ? 1 : 0;
    CHECK(placement.overflow_bytes == 0);
    const double value = placement.objective_value;
    CHECK(value >= *truth * (1 - kRounding));
    CHECK(value <= *truth * 1.02);
    CHECK(placement.lower_bound <= *truth * (1 + kRounding));
    if (placement.lower_bound < value * (1 - kRounding)) continue;
    ++proved;
    CHECK(value == doctest::Approx(*truth).epsilon(kRounding));
  }
  MESSAGE(compared << " compared, " << capped << " of them under memory caps, " << proved << " said to be the least");
  CHECK(compared >= 60);
  CHECK(capped >= 10);
  CHECK(proved >= compared / 2);
}

namespace {

/// Tanh after Tanh over 64 x 64 numbers: blocks of equal cost in a row.
Graph chain_of(int blocks) {
  std::string text = "graph \"chain\" imported\ninput %v0 f32[64,64]\n";
  for (int i = 1; i <= blocks; ++i) text += fmt::format("%v{} f32[64,64] = Tanh(%v{}) @tanh{}\n", i, i - 1, i);
  return parse_graph(text + fmt::format("output y = %v{}\n", blocks));
}

/// Devices of which no two are alike: the last one is twice as fast as the first.
Cluster cluster_of_kinds(int count) {
  Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), count);
  for (int d = 0; d < count; ++d) {
    DeviceRates& rates = cluster.devices[static_cast<size_t>(d)].rates;
    const double factor = 1 + static_cast<double>(d) / (count - 1);
    for (double* rate : {&rates.flops_f32, &rates.bytes_per_second}) *rate *= factor;
    rates.launch_s /= factor;
  }
  return cluster;
}

}  // namespace

TEST_CASE("place: sixteen devices of sixteen speeds share a chain as their speeds are") {
  // 2^16 sets of devices are too many to tell apart, so the stages take the devices in the cluster's order. Of a chain
  // of equal blocks every order is as good, up to a block too many on a device, which has 32 of them at least.
  const Placement placement = place_nodes(chain_of(800), cluster_of_kinds(16), {});
  CHECK(placement.overflow_bytes == 0);
  CHECK(std::set<DeviceId>(placement.device_of_node.begin(), placement.device_of_node.end()).size() == 16);
  CHECK(placement.objective_value <= (1 + 2.0 / 32) * placement.lower_bound);
}

TEST_CASE("place: more kinds of devices than the search takes are refused") {
  const auto place = [] { place_nodes(chain_of(4), cluster_of_kinds(65), {}); };
  CHECK_THROWS_WITH_AS(place(), doctest::Contains("65"), Error);
}

TEST_CASE("place: pins that no order of stages obeys are obeyed all the same") {
  const Graph graph = chain_of(30);
  PlaceOptions options;
  options.pins = {{"^tanh1$", 0}, {"^tanh10$", 1}, {"^tanh20$", 0}};
  const Placement placement = place_nodes(graph, uniform_cluster(*find_device_kind("h100-80g"), 2), options);
  CHECK(placement.device_of_node[0] == DeviceId(0));
  CHECK(placement.device_of_node[9] == DeviceId(1));
  CHECK(placement.device_of_node[19] == DeviceId(0));
  CHECK(placement.lower_bound <= placement.objective_value);
}

TEST_CASE("place: the fewest devices are those that hold the model, and they send as little as can be") {
  const Graph graph = chain_of(30);
  Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), 4);
  PlaceOptions options;
  options.objective = Objective::devices;
  const Placement placement = place_nodes(graph, cluster, options);
  CHECK(std::set<DeviceId>(placement.device_of_node.begin(), placement.device_of_node.end()).size() == 1);
}
