// Activations that do not fit are computed again: models run in memory where they did not fit, with the same bits.

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <string>
#include <variant>

#include "api/reference_evaluator.h"
#include "compiler/ir/parse.h"
#include "compiler/onnx/model.h"
#include "compiler/plan/check.h"
#include "models/zoo.h"
#include "passes/recompute.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"
#include "tests/unit/helpers.h"

namespace {

using namespace mpc;

constexpr int64_t kBatch = 12;
constexpr uint64_t kSeed = 31;

PlanOptions options_for(LossKind loss, int microbatches) {
  PlanOptions options;
  options.batch = kBatch;
  options.microbatches = microbatches;
  options.train = true;
  options.loss = loss;
  options.optimizer.optimizer = parse_optimizer("sgd,lr=0.01");
  return options;
}

using Result = std::variant<Plan, Infeasible>;

Result plan_in(const FrontGraphs& graphs, int devices, const PlanOptions& options, const std::vector<int64_t>& caps) {
  Cluster cluster = uniform_cluster(*find_device_kind("cpu"), devices);
  for (size_t d = 0; d < caps.size(); ++d) cluster.devices[d].memory_bytes = caps[d];
  return make_plan(graphs, cluster, options);
}

bool has_clones(const Plan& plan) {
  return std::ranges::any_of(plan.nodes, [](const PlanNode& node) { return node.name.starts_with(kRecomputeScope); });
}

test::Outcome run(const Plan& plan, const WeightSource& weights) {
  test::RunOptions options;
  options.seed = kSeed;
  return test::run_plan(plan, weights, options);
}

/// The arenas, that of one device with a share only of what it holds beyond what stays from step to step.
std::vector<int64_t> caps_with(const Plan& plan, size_t tight_device, double share) {
  std::vector<int64_t> caps;
  // Other devices get a tenth more: the order of all tasks changes with that of the tight one.
  for (const PlanDevice& device : plan.devices) caps.push_back(device.arena_bytes + device.arena_bytes / 10);
  const MemoryUse& memory = plan.devices[tight_device].memory;
  const int64_t stays = memory.parameter_bytes + memory.gradient_bytes + memory.optimizer_bytes;
  caps[tight_device] =
      stays + static_cast<int64_t>(share * static_cast<double>(plan.devices[tight_device].arena_bytes - stays));
  return caps;
}

/// Where a device has a share of the bytes for activations, nothing fits without computing again, and with it the same
/// is computed.
void check_fits(const FrontGraphs& graphs, const WeightSource& weights, int devices, PlanOptions options,
                size_t tight_device, double share) {
  CAPTURE(devices);
  options.schedule = ScheduleKind::one_f_one_b;
  const Plan ample = std::get<Plan>(plan_in(graphs, devices, options, {}));
  CHECK_FALSE(has_clones(ample));
  // The same nodes on the same devices, so that the caps are those of what runs there.
  for (const PlanNode& node : ample.nodes) {
    if (node.phase == PlanPhase::forward) options.assignment[node.name] = static_cast<int>(node.device.index());
  }
  const std::vector<int64_t> caps = caps_with(ample, tight_device, share);
  options.may_recompute = false;
  CHECK(std::holds_alternative<Infeasible>(plan_in(graphs, devices, options, caps)));
  options.may_recompute = true;
  const Result result = plan_in(graphs, devices, options, caps);
  REQUIRE(std::holds_alternative<Plan>(result));
  const Plan& tight = std::get<Plan>(result);
  check_plan(tight);
  CHECK(has_clones(tight));
  for (size_t d = 0; d < caps.size(); ++d) CHECK(tight.devices[d].arena_bytes <= caps[d]);
  const bool is_told = std::ranges::any_of(
      tight.notes, [](const std::string& note) { return note.find("computed again") != std::string::npos; });
  CHECK(is_told);
  // run_plan checks that the arenas are the plan's.
  const auto difference = test::find_difference(run(ample, weights), run(tight, weights));
  CHECK_MESSAGE(!difference, difference.value_or(""));
}

struct Sample {
  const char* name;
  LossKind loss;
  std::map<std::string, int64_t> sizes;
  double share;         // on one device, of all activations
  size_t tight_device;  // of two
  double tight_share;   // 0: not shown on two
};

}  // namespace

TEST_CASE("recompute: GPT-2, ResNet-50 and U-Net train in memory where they did not fit, with the same bits") {
  const Sample samples[] = {
      {"gpt2",
       LossKind::cross_entropy,
       {{"layers", 6}, {"hidden", 16}, {"heads", 2}, {"vocab", 24}, {"sequence", 8}, {"positions", 8}},
       0.5,
       0,
       0.7},
      {"resnet50", LossKind::cross_entropy, {{"image", 32}, {"classes", 10}, {"width", 4}}, 0.6, 0, 0.7},
      {"unet", LossKind::mse, {{"image", 32}, {"classes", 2}, {"width", 8}, {"levels", 2}}, 0.7, 0, 0},
  };
  for (const Sample& sample : samples) {
    CAPTURE(std::string(sample.name));
    const test::TemporaryFolder folder;
    zoo::Options zoo_options;
    zoo_options.sizes = sample.sizes;
    zoo::write(sample.name, zoo_options, folder / "model.onnx");
    const onnx_io::Model model = onnx_io::Model::load(folder / "model.onnx");
    const ReferenceEvaluator evaluator;
    const auto graph_of = [&](int64_t rows) {
      onnx_io::ImportOptions import;
      import.batch = rows;
      import.mode = onnx_io::ImportOptions::Mode::training;
      return model.import(import, evaluator);
    };
    for (const int devices : {1, 2}) {
      const PlanOptions options = options_for(sample.loss, devices == 1 ? 1 : 4);
      const FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, sample.name);
      const bool is_alone = devices == 1;
      if (!is_alone && sample.tight_share == 0) continue;
      check_fits(graphs, model.weights(), devices, options, is_alone ? 0 : sample.tight_device,
                 is_alone ? sample.share : sample.tight_share);
    }
  }
}

TEST_CASE("recompute: a Dropout that runs again has the mask it had") {
  // Three blocks; the clones of the middle one contain its Dropout.
  const auto graph_of = [](int64_t rows) {
    std::string text = "graph \"dropout\" imported\ninput %x f32[" + std::to_string(rows) + ",16]\n";
    std::string nodes;
    std::string value = "%x";
    for (int i = 0; i < 4; ++i) {
      const std::string n = std::to_string(i);
      const std::string shape = " f32[" + std::to_string(rows) + ",16] = ";
      text += "parameter %w" + n + " f32[16,16] from \"w" + n + "\"\n";
      nodes += "%a" + n + shape + "MatMul(" + value + ", %w" + n + ") @a" + n + "\n";
      nodes += "%d" + n + shape + "Dropout(%a" + n + ") {ratio = 0.5, rng = " + n + "} @d" + n + "\n";
      nodes += "%t" + n + shape + "Tanh(%d" + n + ") @t" + n + "\n";
      value = "%t" + n;
    }
    return parse_graph(text + nodes + "output y = " + value + "\n");
  };
  const PlanOptions options = options_for(LossKind::mse, 1);
  const FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "dropout");
  check_fits(graphs, test::SeededWeights(kSeed), 1, options, 0, 0.85);
}
