#include "passes/place/parallel/stages.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include <doctest/doctest.h>

#include "compiler/base/random.h"

// Pipelines of replicated and sharded stages, against every pipeline there is.

namespace mpc::place {
namespace {

// Sums in another order differ by rounding: some dozen terms of about the same size.
constexpr double kRounding = 1e-9;
constexpr int64_t kEnoughWork = 10'000'000'000;

struct Options {
  int nodes = 5;
  int64_t devices = 4;
  double memory = 120;
  bool has_one_size = true;  // choices of a node reduce the same bytes
};

class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(mix_bits(seed + 1)) {}
  int below(int bound) {
    state_ = mix_bits(state_ + 1);
    return static_cast<int>(state_ % static_cast<uint64_t>(bound));
  }

 private:
  uint64_t state_;
};

ParallelGraph random_graph(uint64_t seed, const Options& options) {
  Numbers random(seed);
  ParallelGraph graph;
  graph.degrees = {1, 2};
  graph.devices = options.devices;
  graph.memory_bytes = options.memory;
  graph.bytes_per_time = 1 + random.below(20);
  graph.microbatches = std::vector<int64_t>{4, 6, 12}[static_cast<size_t>(random.below(3))];
  graph.nodes.resize(static_cast<size_t>(options.nodes));
  for (int to = 1; to < options.nodes; ++to) {
    for (int from = 0; from < to; ++from) {
      if (random.below(3) != 0 && from + 1 != to) continue;
      if (random.below(6) == 0) continue;
      graph.nodes[static_cast<size_t>(from)].out.push_back(static_cast<int>(graph.edges.size()));
      graph.nodes[static_cast<size_t>(to)].in.push_back(static_cast<int>(graph.edges.size()));
      graph.edges.push_back({from, to, static_cast<double>(random.below(30))});
    }
  }
  for (ParallelNode& node : graph.nodes) {
    node.id = 100 + (&node - graph.nodes.data());
    node.choices.resize(2);
    const double time = random.below(5) == 0 ? 0 : 1 + random.below(50);
    for (size_t degree = 0; degree < 2; ++degree) {
      if (degree == 1 && random.below(6) == 0) continue;
      const int choices = 1 + random.below(3);
      const double parameters = random.below(100);
      for (int c = 0; c < choices; ++c) {
        ParallelChoice choice;
        choice.name = std::to_string(c);
        choice.time = time * (1 + 0.3 * c) * (degree == 1 ? 0.6 : 1);
        choice.parameter_bytes = options.has_one_size ? parameters : random.below(100);
        choice.bytes_per_microbatch = random.below(12);
        choice.fixed_bytes = random.below(30);
        choice.bytes_over_replicas = random.below(3) == 0 ? random.below(30) : 0;
        for (size_t i = 0; i < node.in.size(); ++i) choice.sync_in.push_back(degree == 1 ? random.below(9) : 0);
        for (size_t i = 0; i < node.out.size(); ++i) choice.sync_out.push_back(degree == 1 ? random.below(9) : 0);
        node.choices[degree].push_back(choice);
      }
    }
  }
  return graph;
}

using Nodes = uint32_t;  // a bit per node

/// Time of a sample of a stage, as the scorer of the published graphs counts it; infinite when it does not fit.
double stage_time(const ParallelGraph& graph, Nodes stage, size_t degree, int64_t replicas, int64_t in_flight,
                  const std::vector<int>& choice) {
  double time = 0;
  double bytes = 0;
  double reduced = 0;
  double memory = 0;
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    if ((stage >> n & 1) == 0) continue;
    const ParallelNode& node = graph.nodes[n];
    const ParallelChoice& c = node.choices[degree][static_cast<size_t>(choice[n])];
    time += c.time;
    memory += c.bytes_per_microbatch * static_cast<double>(in_flight) + c.fixed_bytes +
              c.bytes_over_replicas / static_cast<double>(replicas);
    reduced += c.parameter_bytes;
    for (size_t i = 0; i < node.in.size(); ++i) {
      const ParallelEdge& edge = graph.edges[static_cast<size_t>(node.in[i])];
      if ((stage >> edge.from & 1) == 0) bytes += 2 * (edge.bytes + c.sync_in[i]);
    }
    for (size_t i = 0; i < node.out.size(); ++i) {
      const ParallelEdge& edge = graph.edges[static_cast<size_t>(node.out[i])];
      if ((stage >> edge.to & 1) == 0) bytes += 2 * (edge.bytes + c.sync_out[i]);
    }
  }
  if (memory > graph.memory_bytes) return std::numeric_limits<double>::infinity();
  const auto d = static_cast<double>(replicas);
  return (time + bytes / graph.bytes_per_time) / d +
         4 * (d - 1) * reduced / d / static_cast<double>(graph.microbatches) / graph.bytes_per_time;
}

/// The best pipeline, by trying all.
class Brute {
 public:
  explicit Brute(const ParallelGraph& graph) : graph_(graph), choice_(graph.nodes.size(), 0) {}

  double best() {
    extend((Nodes{1} << graph_.nodes.size()) - 1, 0, 0, 0);
    return best_;
  }

 private:
  bool is_downset(Nodes nodes) const {
    return std::ranges::all_of(graph_.edges, [&](const ParallelEdge& edge) {
      return (nodes >> edge.to & 1) == 0 || (nodes >> edge.from & 1) == 1;
    });
  }

  void extend(Nodes left, int64_t devices, int64_t replicas, double slowest) {
    if (slowest >= best_) return;
    if (left == 0) {
      best_ = slowest;
      return;
    }
    for (Nodes stage = left; stage != 0; stage = (stage - 1) & left) {
      if (!is_downset(left & ~stage)) continue;
      for (size_t degree = 0; degree < graph_.degrees.size(); ++degree) {
        for (int64_t d = 1; devices + d * graph_.degrees[degree] <= graph_.devices; ++d) {
          if (graph_.microbatches % d != 0 || replicas + d > graph_.microbatches) continue;
          const double time = best_choice(stage, degree, d, (replicas + d + d - 1) / d, 0);
          extend(left & ~stage, devices + d * graph_.degrees[degree], replicas + d, std::max(slowest, time));
        }
      }
    }
  }

  double best_choice(Nodes stage, size_t degree, int64_t replicas, int64_t in_flight, size_t node) {
    while (node < graph_.nodes.size() && (stage >> node & 1) == 0) ++node;
    if (node == graph_.nodes.size()) return stage_time(graph_, stage, degree, replicas, in_flight, choice_);
    double best = std::numeric_limits<double>::infinity();
    for (size_t c = 0; c < graph_.nodes[node].choices[degree].size(); ++c) {
      choice_[node] = static_cast<int>(c);
      best = std::min(best, best_choice(stage, degree, replicas, in_flight, node + 1));
    }
    return best;
  }

  const ParallelGraph& graph_;
  std::vector<int> choice_;
  double best_ = std::numeric_limits<double>::infinity();
};

/// The result's stages, counted anew: every node once, borders that are downsets, devices that exist.
void check_result(const ParallelGraph& graph, const ParallelResult& result) {
  std::vector<int> stage_of(graph.nodes.size(), -1);
  int64_t devices = 0;
  int64_t replicas_left = 0;
  for (const ParallelStage& stage : result.stages) replicas_left += stage.replicas;
  CHECK(replicas_left <= graph.microbatches);
  double slowest = 0;
  for (size_t s = 0; s < result.stages.size(); ++s) {
    const ParallelStage& stage = result.stages[s];
    Nodes nodes = 0;
    std::vector<int> choice(graph.nodes.size(), 0);
    for (size_t i = 0; i < stage.nodes.size(); ++i) {
      const auto node = static_cast<size_t>(stage.nodes[i]);
      CHECK(stage_of[node] == -1);
      stage_of[node] = static_cast<int>(s);
      nodes |= Nodes{1} << node;
      choice[node] = stage.choices[i];
    }
    CHECK(stage.first_device == devices);
    devices += stage.replicas * stage.degree;
    CHECK(graph.microbatches % stage.replicas == 0);
    CHECK(stage.in_flight == (replicas_left + stage.replicas - 1) / stage.replicas);
    replicas_left -= stage.replicas;
    const auto degree = static_cast<size_t>(std::ranges::find(graph.degrees, stage.degree) - graph.degrees.begin());
    const double time = stage_time(graph, nodes, degree, stage.replicas, stage.in_flight, choice);
    CHECK(stage.time == doctest::Approx(time).epsilon(kRounding));
    slowest = std::max(slowest, time);
  }
  CHECK(devices <= graph.devices);
  CHECK(std::ranges::count(stage_of, -1) == 0);
  for (const ParallelEdge& edge : graph.edges)
    CHECK(stage_of[static_cast<size_t>(edge.from)] <= stage_of[static_cast<size_t>(edge.to)]);
  CHECK(result.time == doctest::Approx(slowest).epsilon(kRounding));
}

void compare_with_brute_force(const Options& options, int seeds) {
  int fitting = 0;
  for (int seed = 0; seed < seeds; ++seed) {
    INFO("seed ", seed);
    const ParallelGraph graph = random_graph(static_cast<uint64_t>(seed), options);
    const double best = Brute(graph).best();
    Work work(kEnoughWork);
    const ParallelResult result = search_stages(graph, work);
    CHECK(result.fits == std::isfinite(best));
    CHECK(result.is_optimal);
    if (!result.fits) continue;
    ++fitting;
    check_result(graph, result);
    CHECK(result.time == doctest::Approx(best).epsilon(1e-8));  // bisection ends at 1e-12, a bound is met at 1e-9
    CHECK(result.lower_bound <= best * (1 + kRounding));
  }
  CHECK(fitting > seeds / 10);
  CHECK(fitting < seeds);
}

TEST_CASE("stages: what is found equals the best of all pipelines, and what does not fit fits nowhere") {
  compare_with_brute_force({.nodes = 5, .devices = 5, .memory = 38}, 400);
}

TEST_CASE("stages: with choices that reduce different bytes, too") {
  compare_with_brute_force({.nodes = 4, .devices = 6, .memory = 38, .has_one_size = false}, 400);
}

TEST_CASE("stages: more borders than can be listed leave linear orders, whose answers are right and make no claim") {
  // Two levels of independent nodes: 2^24 sets of the first alone.
  ParallelGraph graph = random_graph(1, {.nodes = 1, .devices = 6, .memory = 1000});
  ParallelNode node = graph.nodes.front();
  node.choices[0].resize(1);
  node.choices[0][0].time = 10;
  graph.nodes.assign(24, node);
  for (size_t i = 0; i < graph.nodes.size(); ++i) graph.nodes[i].id = static_cast<int64_t>(i);
  Work work(kEnoughWork);
  const ParallelResult result = search_stages(graph, work);
  REQUIRE(result.fits);
  check_result(graph, result);
  CHECK(result.lower_bound <= result.time * (1 + kRounding));
}

TEST_CASE("stages: the same graph gives the same stages") {
  const ParallelGraph graph = random_graph(3, {.nodes = 7, .devices = 12, .memory = 200});
  Work first(kEnoughWork);
  Work second(kEnoughWork);
  const ParallelResult a = search_stages(graph, first);
  const ParallelResult b = search_stages(graph, second);
  CHECK(a.time == b.time);
  CHECK(first.left() == second.left());
  REQUIRE(a.stages.size() == b.stages.size());
  for (size_t i = 0; i < a.stages.size(); ++i) {
    CHECK(a.stages[i].nodes == b.stages[i].nodes);
    CHECK(a.stages[i].choices == b.stages[i].choices);
  }
}

}  // namespace
}  // namespace mpc::place
