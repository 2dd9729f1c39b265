// Partition never changes the answer: any placement on k devices gives the bits of one device.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>

#include "compiler/ir/parse.h"
#include "compiler/ir/print.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"
#include "tests/support/sweep.h"

namespace {

using namespace mpc;

constexpr int kGraphs = test::sweep(500);
constexpr int64_t kBatch = 10;

struct Case {
  uint64_t seed = 0;
  int devices = 1;
  int microbatches = 1;
  ScheduleKind schedule = ScheduleKind::sequential;
  bool random_placement = false;
  test::RandomGraphOptions graph = {};
  bool may_fuse = true;
};

/// What is done to a plan before it runs, so that a test can break it.
using Sabotage = std::function<void(Plan&)>;

PlanOptions options_for(const Case& c) {
  PlanOptions options;
  options.batch = kBatch;
  options.microbatches = c.microbatches;
  options.schedule = c.schedule;
  options.may_fuse = c.may_fuse;
  options.train = true;
  options.keep_outputs = true;
  options.loss = LossKind::mse;
  options.optimizer.optimizer = parse_optimizer(c.seed % 2 == 0 ? "adam,lr=0.01" : "momentum,lr=0.05");
  if (c.seed % 5 == 0) options.optimizer.clip_norm = 0.5;
  return options;
}

Plan plan_for(const Case& c) {
  PlanOptions options = options_for(c);
  const auto graph_of = [&](int64_t rows) { return test::random_graph(c.seed, rows, c.graph); };
  const FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "random graph");
  if (c.random_placement) options.assignment = test::random_assignment(graphs.main, c.devices, c.seed);
  return test::plan_on_cpus(graphs, c.devices, options);
}

test::Outcome execute(const Plan& plan, uint64_t seed) {
  test::RunOptions options;
  options.seed = seed;
  return test::run_plan(plan, test::SeededWeights(seed), options);
}

/// What is wrong with the case: a difference from one device, or an error.
std::optional<std::string> find_problem(const Case& c, const Sabotage& sabotage = {}) {
  try {
    Case alone = c;
    alone.devices = 1;
    alone.random_placement = false;
    alone.schedule = ScheduleKind::sequential;
    const test::Outcome one = execute(plan_for(alone), c.seed);
    if (!test::is_finite(one)) return "one device computes numbers that are not finite";
    Plan plan = plan_for(c);
    if (sabotage) sabotage(plan);
    return test::find_difference(one, execute(plan, c.seed));
  } catch (const std::exception& error) {
    return error.what();
  }
}

/// The problem, the smallest graph found that has one, and how to see it again.
std::string reduced_report(const Case& c, const std::string& problem, const Sabotage& sabotage = {}) {
  Case reduced = c;
  reduced.graph = test::shrink(c.graph, [&](const test::RandomGraphOptions& smaller) {
    Case candidate = c;
    candidate.graph = smaller;
    return find_problem(candidate, sabotage).has_value();
  });
  return problem + "\nseed " + std::to_string(c.seed) + ", " + std::to_string(c.devices) + " devices, " +
         std::to_string(c.microbatches) + " micro-batches, " + std::string(schedule_name(c.schedule)) +
         (c.random_placement ? ", random placement" : ", planned") +
         "; reproduce with MPC_TEST_SEED=" + std::to_string(c.seed) + "; reduced to\n" +
         print(test::random_graph(c.seed, kBatch, reduced.graph));
}

Case case_of(uint64_t seed) {
  constexpr int kDevices[] = {2, 3, 4, 8};
  constexpr ScheduleKind kSchedules[] = {ScheduleKind::sequential,  ScheduleKind::gpipe, ScheduleKind::one_f_one_b,
                                         ScheduleKind::interleaved, ScheduleKind::zb_h1, ScheduleKind::zb_h2,
                                         ScheduleKind::zb_v,        ScheduleKind::list,  ScheduleKind::automatic};
  // 10 rows: 1 micro-batch, or 4 of 3, 3, 3 and 1 rows.
  return {seed, kDevices[seed % 4], seed % 3 == 0 ? 1 : 4, kSchedules[(seed / 4) % 9], false, {}};
}

void check_seed(uint64_t seed) {
  Case c = case_of(seed);
  for (const bool is_random : {false, true}) {
    c.random_placement = is_random;
    const auto problem = find_problem(c);
    const std::string report = problem ? reduced_report(c, *problem) : "";
    CHECK(report == "");
  }
}

/// A compiler that takes Tanh for Sigmoid: its plans are sound, and wrong.
void confuse_tanh(Plan& plan) {
  for (PlanNode& node : plan.nodes) {
    if (node.op == OpKind::Tanh) node.op = OpKind::Sigmoid;
  }
}

int count_nodes(const Graph& graph, OpKind op) {
  int count = 0;
  for (const Node& node : graph.nodes()) count += node.op == op ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("partition: random graphs on k devices give the bits of one device") {
  if (const char* only = std::getenv("MPC_TEST_SEED")) {
    check_seed(std::strtoull(only, nullptr, 10));
    return;
  }
  for (uint64_t seed = 1; seed <= kGraphs; ++seed) check_seed(seed);
}

TEST_CASE("partition: a graph whose plan is wrong is reduced to the node that is at fault") {
  int reduced_graphs = 0;
  for (uint64_t seed = 1; reduced_graphs < 3; ++seed) {
    REQUIRE(seed < 100);
    Case c = case_of(seed);
    c.may_fuse = false;  // a Tanh is then a node, which confuse_tanh finds
    const Graph whole = test::random_graph(seed, kBatch, c.graph);
    if (count_nodes(whole, OpKind::Tanh) == 0) continue;
    const auto problem = find_problem(c, confuse_tanh);
    if (!problem) continue;  // no bit of the result depends on it
    ++reduced_graphs;
    CAPTURE(seed);
    const test::RandomGraphOptions smaller = test::shrink(c.graph, [&](const test::RandomGraphOptions& options) {
      Case candidate = c;
      candidate.graph = options;
      return find_problem(candidate, confuse_tanh).has_value();
    });
    // One step is left: Tanh and, when the width is another, the linear layer that gives "y" its width; a second
    // input that nobody reads is joined with two more nodes, as is the output of a graph without parameters.
    const Graph small = test::random_graph(seed, kBatch, smaller);
    CHECK(static_cast<int>(smaller.dropped.size()) == smaller.steps - 1);
    CHECK(count_nodes(small, OpKind::Tanh) == 1);
    CHECK(small.node_count() <= 5);
    CHECK(small.node_count() < whole.node_count());
    const std::string report = reduced_report(c, *problem, confuse_tanh);
    CHECK(report.find("MPC_TEST_SEED=" + std::to_string(seed)) != std::string::npos);
    CHECK(report.find(print(small)) != std::string::npos);
  }
}

TEST_CASE("partition: a parameter that both sides of a cut read is not told as a block's small result") {
  // %b is 256 bytes, what the block that reads it first reads beside it is 16,384: but the block does not make %b. It
  // is trained, so the other device gets it anew in each step.
  const Graph graph = parse_graph(R"(graph "shared" imported
input %x f32[64,64]
parameter %b f32[64] from "b"
%h f32[64,64] = Tanh(%x) @front/tanh
%a f32[64,64] = Add(%h, %b) @front/add
%c f32[64,64] = Add(%a, %b) @back/add
%y f32[64,64] = Tanh(%c) @back/tanh
output y = %y
)");
  PlanOptions options;
  options.pins = {{"front/", 0}, {"back/", 1}};
  options.train = true;
  options.loss = LossKind::mse;
  options.optimizer.optimizer = parse_optimizer("sgd,lr=0.01");
  const FrontGraphs graphs = make_front_graphs([&](int64_t) { return graph; }, {}, options, "text");
  const Plan plan = test::plan_on_cpus(graphs, 2, options);
  CHECK(std::ranges::any_of(plan.transfers, [&](const PlanTransfer& transfer) {
    return std::ranges::any_of(transfer.sources, [&](PlanIndex value) { return plan.values[value].source == "b"; });
  }));
  for (const std::string& note : plan.notes) {
    INFO(note);
    CHECK(note.find("runs before the cut") == std::string::npos);
  }
}
