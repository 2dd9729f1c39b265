#include "tests/cuda/plans.h"

#include <map>
#include <set>
#include <utility>
#include <vector>

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

namespace {

struct Request {
  FrontGraphs graphs;
  PlanOptions options;
};

Request random_request(uint64_t seed, int devices, bool is_random) {
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
  FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "random graph");
  if (is_random) options.assignment = random_assignment(graphs.main, devices, seed);
  return {std::move(graphs), std::move(options)};
}

}  // namespace

Plan random_training_plan(uint64_t seed, int devices, bool is_random) {
  const Request request = random_request(seed, devices, is_random);
  return plan_on_cpus(request.graphs, devices, request.options);
}

int64_t cut_edges(uint64_t seed, int devices) {
  const Request request = random_request(seed, devices, true);
  const Graph& graph = request.graphs.main;
  std::vector<int> device_of;  // of every node
  for (const Node& node : graph.nodes()) {
    const bool is_forward = node.phase == Phase::forward;
    device_of.push_back(is_forward ? request.options.assignment.at(node.name) : device_of[node.anchor.index()]);
  }
  // A parameter that the step replaces lives where it is updated; one that stays is on every device that reads it.
  std::map<ValueId, int> home;
  for (const Update& update : graph.updates) {
    home[update.persistent] = device_of[graph.value(update.next).producer.index()];
  }
  std::set<std::pair<ValueId, int>> cut;
  for (int i = 0; i < graph.node_count(); ++i) {
    const int device = device_of[static_cast<size_t>(i)];
    for (const ValueId input : graph.node(NodeId(i)).inputs) {
      if (!input.is_valid()) continue;
      const Value& value = graph.value(input);
      const bool is_made = value.kind == ValueKind::node;
      if (!is_made && !home.contains(input)) continue;
      if ((is_made ? device_of[value.producer.index()] : home.at(input)) != device) cut.insert({input, device});
    }
  }
  int64_t copies = 0;
  for (const auto& [id, device] : cut) {
    const Value& value = graph.value(id);
    const bool once = value.kind != ValueKind::node || value.rate == Rate::per_step;
    copies += once ? 1 : request.graphs.microbatches;
  }
  return copies;
}

std::string difference(const Outcome& a, const Outcome& b) {
  return find_difference(a, b).value_or("");
}

}  // namespace mpc::test
