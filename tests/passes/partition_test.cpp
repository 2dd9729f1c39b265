// Partition never changes the answer: any placement on k devices gives the bits of one device.

#include <doctest/doctest.h>

#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compiler/base/random.h"
#include "compiler/plan/check.h"
#include "executor/session.h"
#include "passes/pipeline.h"
#include "tests/support/random_graph.h"

namespace {

using namespace mpc;

constexpr int kGraphs = 500;
constexpr int64_t kBatch = 10;
constexpr int kSteps = 2;

struct Case {
  uint64_t seed = 0;
  int devices = 1;
  int microbatches = 1;
  ScheduleKind schedule = ScheduleKind::sequential;
  bool random_placement = false;
};

std::string describe(const Case& c) {
  return "seed " + std::to_string(c.seed) + ", " + std::to_string(c.devices) + " devices, " + std::to_string(c.microbatches) + " micro-batches, " +
         std::string(schedule_name(c.schedule)) + (c.random_placement ? ", random placement" : ", planned") +
         " (reproduce: MPC_TEST_SEED=" + std::to_string(c.seed) + " partition_test)";
}

struct Outcome {
  std::vector<double> losses;
  std::vector<std::pair<std::string, Literal>> tensors;  // outputs, gradients, parameters and states
};

PlanOptions options_for(const Case& c) {
  PlanOptions options;
  options.batch = kBatch;
  options.microbatches = c.microbatches;
  options.schedule = c.schedule;
  options.train = true;
  options.keep_outputs = true;
  options.loss = LossKind::mse;
  options.optimizer.optimizer = parse_optimizer(c.seed % 2 == 0 ? "adam,lr=0.01" : "momentum,lr=0.05");
  if (c.seed % 5 == 0) options.optimizer.clip_norm = 0.5;
  return options;
}

Plan plan_for(const Case& c) {
  PlanOptions options = options_for(c);
  const auto graph_of = [&](int64_t rows) { return test::random_graph(c.seed, rows, {}); };
  const FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "random graph");
  if (c.random_placement) {
    uint64_t state = c.seed;
    for (const Node& node : graphs.main.nodes()) {
      if (node.phase == Phase::forward) options.assignment[node.name] = static_cast<int>(mix_bits(++state) % static_cast<uint64_t>(c.devices));
    }
  }
  const Cluster cluster = uniform_cluster(*find_device_kind("cpu"), c.devices);
  auto result = make_plan(graphs, cluster, options);
  REQUIRE(std::holds_alternative<Plan>(result));
  return std::get<Plan>(std::move(result));
}

Outcome execute(const Plan& plan, uint64_t seed) {
  const test::SeededWeights weights(seed);
  executor::SessionOptions options;
  options.seed = seed;
  options.poison = true;
  executor::Session session(plan, weights, options);
  std::vector<std::vector<std::byte>> data;
  for (const PlanInput& input : plan.inputs) {
    if (input.role == PlanInput::Role::step || input.role == PlanInput::Role::learning_rate_scale) continue;
    const PlanValue& value = plan.values[input.value];
    Shape shape = value.shapes[0];
    if (input.is_batched) shape.set(0, plan.batch);
    data.emplace_back(static_cast<size_t>(byte_size(shape, value.dtype)));
    weights.read("input " + input.name, 0, data.back());
    session.bind(input.name, value.dtype, shape, data.back());
  }
  Outcome outcome;
  for (int i = 0; i < kSteps; ++i) outcome.losses.push_back(session.step().loss);
  for (const PlanOutput& output : plan.outputs) outcome.tensors.emplace_back("output " + output.name, session.output(output.name));
  for (const PlanGradient& g : plan.gradients) {
    const std::string& parameter = plan.values[g.parameter].name;
    outcome.tensors.emplace_back("gradient of " + parameter, session.gradient(parameter));
    outcome.tensors.emplace_back(parameter, session.read(parameter));
  }
  for (const auto& use : session.arena_use()) CHECK(use.used_bytes <= use.arena_bytes);
  return outcome;
}

void check_same_bits(const Outcome& one, const Outcome& many, const std::string& where) {
  INFO(where);
  CHECK(one.losses == many.losses);
  REQUIRE(one.tensors.size() == many.tensors.size());
  for (const auto& [name, expected] : one.tensors) {
    INFO(name);
    bool found = false;
    for (const auto& [other, actual] : many.tensors) {
      if (other != name) continue;
      found = true;
      CHECK(expected == actual);
    }
    CHECK(found);
  }
}

void check_seed(uint64_t seed) {
  constexpr int kDevices[] = {2, 3, 4, 8};
  constexpr ScheduleKind kSchedules[] = {ScheduleKind::sequential, ScheduleKind::gpipe, ScheduleKind::one_f_one_b};
  // 10 rows: 1 micro-batch, or 4 of 3, 3, 3 and 1 rows.
  const int microbatches = seed % 3 == 0 ? 1 : 4;
  Case c{seed, 1, microbatches, ScheduleKind::sequential, false};
  const Plan alone = plan_for(c);
  check_plan(alone);
  const Outcome one = execute(alone, seed);
  c.devices = kDevices[seed % 4];
  c.schedule = kSchedules[(seed / 4) % 3];
  for (const bool is_random : {false, true}) {
    c.random_placement = is_random;
    INFO(describe(c));
    const Plan plan = plan_for(c);
    check_plan(plan);
    check_same_bits(one, execute(plan, seed), describe(c));
  }
}

}  // namespace

TEST_CASE("partition: random graphs on k devices give the bits of one device") {
  if (const char* only = std::getenv("MPC_TEST_SEED")) {
    check_seed(std::strtoull(only, nullptr, 10));
    return;
  }
  for (uint64_t seed = 1; seed <= kGraphs; ++seed) {
    INFO("seed ", seed);
    check_seed(seed);
  }
}
