#include "tests/cuda/plans.h"

#include "passes/pipeline.h"
#include "tests/support/random_graph.h"

namespace mpc::test {
namespace {

constexpr int64_t kBatch = 10;

}  // namespace

Plan on_gpus(Plan plan, const std::vector<int>& gpus) {
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    if (gpus[i] < 0) continue;
    plan.devices[i].name = "cuda:" + std::to_string(gpus[i]) + "." + std::to_string(i);
    plan.devices[i].backend = "cuda";
  }
  return plan;
}

Plan random_training_plan(uint64_t seed, int devices, bool is_random) {
  constexpr ScheduleKind kSchedules[] = {ScheduleKind::sequential, ScheduleKind::gpipe, ScheduleKind::one_f_one_b};
  PlanOptions options;
  options.batch = kBatch;
  options.microbatches = seed % 3 == 0 ? 1 : 4;
  options.schedule = kSchedules[(seed / 4) % 3];
  options.train = true;
  options.keep_outputs = true;
  options.loss = LossKind::mse;
  options.optimizer.optimizer = parse_optimizer(seed % 2 == 0 ? "adam,lr=0.01" : "momentum,lr=0.05");
  if (seed % 5 == 0) options.optimizer.clip_norm = 0.5;
  const auto graph_of = [&](int64_t rows) { return random_graph(seed, rows, {}); };
  const FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "random graph");
  if (is_random) options.assignment = random_assignment(graphs.main, devices, seed);
  return plan_on_cpus(graphs, devices, options);
}

std::string difference(const Outcome& a, const Outcome& b) {
  return find_difference(a, b).value_or("");
}

}  // namespace mpc::test
