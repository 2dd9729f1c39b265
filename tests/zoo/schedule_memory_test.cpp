// Stages are made for the memory that the schedule takes: a split for 1F1B does not fit where GPipe holds all
// micro-batches, and what fits only with few of them in flight is found.

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <variant>

#include "api/reference_evaluator.h"
#include "compiler/onnx/model.h"
#include "models/zoo.h"
#include "passes/back_half.h"
#include "passes/place/problem.h"
#include "tests/unit/helpers.h"

namespace {

using namespace mpc;

FrontGraphs graphs_of(const std::string& model, const PlanOptions& options) {
  const test::TemporaryFolder folder;
  zoo::Options sizes;
  sizes.weights = false;
  zoo::write(model, sizes, folder / "model.onnx");
  return make_front_graphs(onnx_io::Model::load(folder / "model.onnx"), options, ReferenceEvaluator());
}

FrontGraphs unet_graphs(const PlanOptions& options) {
  return graphs_of("unet", options);
}

PlanOptions options_for(ScheduleKind schedule) {
  PlanOptions options;
  options.batch = 64;
  options.microbatches = 8;
  options.train = true;
  options.loss = LossKind::cross_entropy;
  options.schedule = schedule;
  options.may_recompute = false;
  options.may_offload = false;
  return options;
}

Cluster cluster_of(int64_t memory_bytes) {
  Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), 4);
  for (Device& device : cluster.devices) device.memory_bytes = memory_bytes;
  return cluster;
}

int64_t peak_bytes(const Plan& plan) {
  int64_t peak = 0;
  for (const PlanDevice& device : plan.devices) peak = std::max(peak, device.arena_bytes);
  return peak;
}

constexpr int64_t kAmple = int64_t{1} << 40;

/// Nothing is computed again or sent away: what the stages and the order take.
Attempt attempt_in(const FrontGraphs& graphs, const PlanOptions& options, int64_t memory_bytes) {
  return best_attempt(graphs, cluster_of(memory_bytes), options, Observed({}));
}

int64_t ample_peak_bytes(const FrontGraphs& graphs, const PlanOptions& options) {
  return peak_bytes(attempt_in(graphs, options, kAmple).plan);
}

/// The given schedule on the stages that are best for 1F1B.
Attempt attempt_on_stages_for_1f1b(const FrontGraphs& graphs, PlanOptions options, int64_t memory_bytes) {
  PlaceOptions place;
  place.microbatches = graphs.microbatches;
  const Placement placement = place_nodes(graphs.main, cluster_of(memory_bytes), place);
  for (int i = 0; i < graphs.main.node_count(); ++i) {
    const Node& node = graphs.main.node(NodeId(i));
    const DeviceId device = placement.device_of_node[static_cast<size_t>(i)];
    if (node.phase == Phase::forward) options.assignment[node.name] = static_cast<int>(device.index());
  }
  return attempt_in(graphs, options, memory_bytes);
}

}  // namespace

TEST_CASE("schedule memory: GPipe fits by another split where it does not fit as 1F1B's stages are") {
  const PlanOptions options = options_for(ScheduleKind::gpipe);
  const FrontGraphs graphs = unet_graphs(options);
  const int64_t cap = ample_peak_bytes(graphs, options) * 3 / 4;
  CHECK(attempt_on_stages_for_1f1b(graphs, options, cap).excess_bytes > 0);
  const Attempt attempt = attempt_in(graphs, options, cap);
  CHECK(attempt.excess_bytes == 0);
  CHECK(peak_bytes(attempt.plan) <= cap);
}

TEST_CASE("schedule memory: auto fits where only fewer micro-batches in flight than under 1F1B do") {
  const PlanOptions options = options_for(ScheduleKind::automatic);
  const FrontGraphs graphs = unet_graphs(options);
  const int64_t cap = ample_peak_bytes(graphs, options) * 15 / 100;
  CHECK(attempt_in(graphs, options_for(ScheduleKind::one_f_one_b), cap).excess_bytes > 0);
  CHECK(attempt_on_stages_for_1f1b(graphs, options, cap).excess_bytes > 0);
  const Attempt attempt = attempt_in(graphs, options, cap);
  CHECK(attempt.excess_bytes == 0);
  CHECK(peak_bytes(attempt.plan) <= cap);
}

// Stages that `auto` holds its order back for may be slower than those that another schedule leads to.
TEST_CASE("schedule memory: where memory is short auto is no slower than any schedule that has a name") {
  PlanOptions options = options_for(ScheduleKind::automatic);
  options.batch = 16;
  options.microbatches = 4;
  options.optimizer.optimizer = parse_optimizer("adam");
  options.may_recompute = options.may_offload = true;
  const FrontGraphs graphs = graphs_of("moe", options);
  const int64_t memory = ample_peak_bytes(graphs, options) * 65 / 100;
  const Attempt best = attempt_in(graphs, options, memory);
  CHECK(best.excess_bytes == 0);
  for (const ScheduleKind kind : {ScheduleKind::one_f_one_b, ScheduleKind::zb_h1}) {
    CAPTURE(schedule_name(kind));
    options.schedule = kind;
    const Attempt named = attempt_in(graphs, options, memory);
    CHECK(named.excess_bytes == 0);
    CHECK(best.step_seconds <= named.step_seconds);
  }
}

TEST_CASE("schedule memory: the objective memory takes least, by the stages and by the order") {
  for (const ScheduleKind schedule : {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::automatic}) {
    CAPTURE(schedule_name(schedule));
    PlanOptions options = options_for(schedule);
    const FrontGraphs graphs = unet_graphs(options);
    const int64_t fast = ample_peak_bytes(graphs, options);
    options.objective = Objective::memory;
    const int64_t least = ample_peak_bytes(graphs, options);
    MESSAGE(fast << " bytes, " << least << " where they count");
    CHECK(least < fast);
  }
}

TEST_CASE("schedule memory: what a stage takes beyond its estimate moves work to other stages") {
  // On stages as they are estimated neither share fits; attempts that only put the same stages on other devices found
  // nothing for it.
  const PlanOptions options = options_for(ScheduleKind::gpipe);
  const FrontGraphs graphs = unet_graphs(options);
  const int64_t cap = ample_peak_bytes(graphs, options) * 85 / 100;
  const Attempt attempt = attempt_in(graphs, options, cap);
  CHECK(attempt.excess_bytes == 0);
  CHECK(peak_bytes(attempt.plan) <= cap);
}

TEST_CASE("schedule memory: the objective memory takes no more than any other objective") {
  for (const ScheduleKind schedule : {ScheduleKind::gpipe, ScheduleKind::zb_h2}) {
    CAPTURE(schedule_name(schedule));
    PlanOptions options = options_for(schedule);
    options.loss = LossKind::mse;  // estimates are far off for its stages
    const FrontGraphs graphs = unet_graphs(options);
    options.objective = Objective::memory;
    const int64_t least = ample_peak_bytes(graphs, options);
    for (const Objective other : {Objective::throughput, Objective::latency, Objective::devices}) {
      CAPTURE(objective_name(other));
      options.objective = other;
      CHECK(least <= ample_peak_bytes(graphs, options));
    }
  }
}

TEST_CASE("schedule memory: with one micro-batch no step is shorter than under the objective latency") {
  PlanOptions options = options_for(ScheduleKind::automatic);
  options.microbatches = 1;
  const FrontGraphs graphs = unet_graphs(options);
  const Attempt fast = attempt_in(graphs, options, kAmple);
  options.objective = Objective::latency;
  const Attempt latency = attempt_in(graphs, options, kAmple);
  CHECK(latency.step_seconds <= fast.step_seconds);
  CHECK(latency.placement.objective_value == latency.step_seconds);
  CHECK(latency.placement.lower_bound <= latency.placement.objective_value);
}

TEST_CASE("schedule memory: where weights alone do not fit, nothing is suggested that leaves them where they are") {
  PlanOptions options = options_for(ScheduleKind::gpipe);
  const FrontGraphs graphs = unet_graphs(options);
  const place::Problem problem = place::make_problem(graphs.main, cluster_of(kAmple), {}, graphs.microbatches);
  const int64_t largest = std::ranges::max(problem.persistent_bytes);
  const auto result = make_plan(graphs, cluster_of(largest - 1), options);
  const Infeasible& infeasible = std::get<Infeasible>(result);
  CHECK(!infeasible.needs.empty());
  REQUIRE(infeasible.suggestions.size() == 1);
  CHECK(infeasible.suggestions.front().starts_with("--memory "));
  // The bound holds: plans keep at least so much.
  const Plan plan = attempt_in(graphs, options, kAmple).plan;
  int64_t lasting = 0;
  int64_t most = 0;
  for (const PlanDevice& device : plan.devices) {
    const MemoryUse& memory = device.memory;
    const int64_t bytes = memory.parameter_bytes + memory.gradient_bytes + memory.optimizer_bytes;
    lasting += bytes;
    most = std::max(most, bytes);
  }
  int64_t together = 0;
  for (const int64_t bytes : problem.persistent_bytes) together += bytes;
  CHECK(largest <= most);
  constexpr int64_t kLossBytes = 4;  // summed over the micro-batches: no weight, but as lasting
  CHECK(together <= lasting + kLossBytes);
}
