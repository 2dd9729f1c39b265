// The objectives latency and memory of the place pass against brute force on small random graphs.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "compiler/base/random.h"
#include "passes/pipeline.h"
#include "passes/place/evaluate.h"
#include "tests/passes/brute_force.h"
#include "tests/support/random_graph.h"

namespace {

using namespace mpc;
using place::Problem;

// Sums in another order differ by rounding.
constexpr double kRounding = 1e-9;
// What the search may be above the best placement where it does not claim to have it.
constexpr double kWithin = 1.02;
constexpr int kMicrobatches = 4;

/// GPUs whose links are fast enough, each in its way, that branches are worth running side by side; the last one is
/// slower in every third case.
Cluster quick_cluster(uint64_t seed, int devices) {
  Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), devices);
  uint64_t state = seed;
  for (Link& link : cluster.links) {
    state = mix_bits(state + 1);
    link.latency_s = 1e-8 * static_cast<double>(state % 400);
  }
  if (seed % 3 == 0) cluster.devices.back().rates.launch_s *= 1.5;
  return cluster;
}

/// The shortest critical path of any placement.
double least_critical_path(const Problem& problem) {
  std::vector<int> free;
  for (int b = 0; b < problem.block_count; ++b) {
    if (problem.follows[static_cast<size_t>(b)] < 0) free.push_back(b);
  }
  std::vector<int> device(static_cast<size_t>(problem.block_count), 0);
  double best = place::critical_path_s(problem, device);
  for (;;) {
    size_t i = 0;
    while (i < free.size() && ++device[static_cast<size_t>(free[i])] == problem.device_count)
      device[static_cast<size_t>(free[i++])] = 0;
    if (i == free.size()) return best;
    best = std::min(best, place::critical_path_s(problem, place::with_followers(problem, device)));
  }
}

/// The smallest largest share of any split into stages, on any number of devices in any order.
double least_share(const Problem& problem) {
  double best = 1e30;
  for (int used = 1; used <= problem.device_count; ++used) {
    std::vector<int> order(static_cast<size_t>(problem.device_count));
    std::iota(order.begin(), order.end(), 0);
    do {
      test::for_each_split(problem, order, used, [&](const std::vector<int>& device) {
        best = std::min(best, place::largest_share(problem, device));
      });
    } while (std::ranges::next_permutation(order).found);
  }
  return best;
}

}  // namespace

TEST_CASE("place: the critical path is within 2 % of the best of all placements, and its bound holds") {
  int compared = 0;
  int parallel = 0;
  double worst = 1;
  for (uint64_t seed = 1; seed <= 120; ++seed) {
    CAPTURE(seed);
    const int devices = 2 + static_cast<int>(seed % 2);
    const Graph graph = test::small_graph(seed, seed % 4 == 0, 1);
    const Cluster cluster = quick_cluster(seed, devices);
    Problem problem = place::make_problem(graph, cluster, {}, 1);
    place::attach_followers(graph, problem);
    if (std::ranges::count(problem.follows, -1) > 10) continue;
    const double truth = least_critical_path(problem);
    const std::vector<int> together(static_cast<size_t>(problem.block_count), 0);
    parallel += truth < place::critical_path_s(problem, together) * 0.95 ? 1 : 0;
    PlaceOptions options;
    options.objective = Objective::latency;
    const Placement placement = place_nodes(graph, cluster, options);
    ++compared;
    worst = std::max(worst, placement.objective_value / truth);
    CHECK(placement.objective_value >= truth * (1 - kRounding));
    CHECK(placement.objective_value <= truth * kWithin);
    CHECK(placement.lower_bound <= truth * (1 + kRounding));
  }
  MESSAGE(compared << " compared, " << parallel << " of them faster on several devices, at most " << worst
                   << " of the best");
  CHECK(compared >= 30);
  CHECK(parallel >= 15);
}

TEST_CASE("place: a longer search for latency finds nothing worse, and the same each time") {
  int shorter = 0;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    const Graph graph = test::random_graph(seed, 4, {});
    const Cluster cluster = quick_cluster(seed, 3);
    PlaceOptions options;
    options.objective = Objective::latency;
    double before = INFINITY;
    for (const double budget_s : {0.001, 0.02, 0.2}) {
      options.budget_s = budget_s;
      const Placement placement = place_nodes(graph, cluster, options);
      CHECK(placement.objective_value <= before * (1 + kRounding));
      CHECK(place_nodes(graph, cluster, options).device_of_node == placement.device_of_node);
      if (placement.objective_value < before * (1 - kRounding) && before < INFINITY) ++shorter;
      before = placement.objective_value;
    }
  }
  CHECK(shorter > 0);
}

TEST_CASE("place: the critical path counts a link that carries one tensor at a time") {
  // Two blocks on device 0 feed one on device 1: the second tensor waits for the first.
  place::CriticalPath path;
  path.block = {0, 1, 2};
  path.seconds = {{1, 1, 1}, {1, 1, 1}};
  path.read_count = {0, 0, 2};
  path.makes = {{0}, {1}, {}};
  path.values = {{0, 0, {2}, 10}, {1, 1, {2}, 10}};
  Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), 2);
  for (Link& link : cluster.links) {
    link.bytes_per_second = 1;
    link.latency_s = 0;
  }
  // 1 s for block 0, 10 s for its tensor until 11 s, 10 s for the other one until 21 s, 1 s for block 2.
  CHECK(place::critical_path_s(path, cluster, {0, 0, 1}) == doctest::Approx(22));
  // Block 1 on device 1 sends nothing: 1 s, 10 s, 1 s.
  CHECK(place::critical_path_s(path, cluster, {0, 1, 1}) == doctest::Approx(12));
}

TEST_CASE("place: the least memory is within 2 % of the best of all stages, and its bound holds") {
  constexpr int kMostBlocks[] = {0, 0, 14, 12, 10};
  constexpr ScheduleKind kSchedules[] = {ScheduleKind::one_f_one_b, ScheduleKind::gpipe, ScheduleKind::zb_h2,
                                         ScheduleKind::sequential};
  int compared = 0;
  int proved = 0;
  double worst = 1;
  for (uint64_t seed = 1; seed <= 120; ++seed) {
    CAPTURE(seed);
    const int devices = 2 + static_cast<int>(seed % 3);
    const Graph graph = test::small_graph(seed, seed / 3 % 2 == 0, kMicrobatches);
    Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), devices);
    if (seed % 5 == 0) cluster.devices[0].memory_bytes /= 3;
    Problem problem = place::make_problem(graph, cluster, {}, kMicrobatches);
    place::attach_followers(graph, problem);
    if (std::ranges::count(problem.follows, -1) > kMostBlocks[devices]) continue;
    problem.held = held_microbatches(kSchedules[seed % std::size(kSchedules)], 1);
    const double truth = least_share(problem);
    PlaceOptions options;
    options.objective = Objective::memory;
    options.microbatches = kMicrobatches;
    options.held = problem.held;
    const Placement placement = place_nodes(graph, cluster, options);
    ++compared;
    worst = std::max(worst, placement.objective_value / truth);
    CHECK(placement.objective_value >= truth * (1 - kRounding));
    CHECK(placement.objective_value <= truth * kWithin);
    CHECK(placement.lower_bound <= truth * (1 + kRounding));
    proved += placement.lower_bound >= placement.objective_value * (1 - kRounding) ? 1 : 0;
  }
  MESSAGE(compared << " compared, " << proved << " equal to their bound, at most " << worst << " of the best");
  CHECK(compared >= 50);
}
