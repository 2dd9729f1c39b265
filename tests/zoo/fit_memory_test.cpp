// Activations that do not fit are computed again, or wait in host memory: models run in memory where they did not fit,
// with the same bits.

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "api/reference_evaluator.h"
#include "compiler/ir/parse.h"
#include "compiler/onnx/model.h"
#include "compiler/plan/check.h"
#include "compiler/plan/host_memory.h"
#include "compiler/plan/views.h"
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

bool has_host_memory(const Plan& plan) {
  return is_host_memory(plan.devices.back());
}

/// What may be done about activations that do not fit.
enum class Means { recompute, offload, both };

bool tells(const Plan& plan, const std::string& words) {
  return std::ranges::any_of(plan.notes,
                             [&](const std::string& note) { return note.find(words) != std::string::npos; });
}

/// Every copy to the host and back is in the plan once per micro-batch, what is there was sent, and nothing twice, as a
/// value and as a view of it.
void check_host_traffic(const Plan& plan) {
  const std::vector<PlanIndex> origins = origins_of_bytes(plan);
  std::set<PlanIndex> sent;
  const DeviceId host(plan.devices.size() - 1);
  size_t there = 0;
  size_t back = 0;
  for (const PlanTransfer& transfer : plan.transfers) {
    there += transfer.to == host ? 1 : 0;
    back += transfer.from == host ? 1 : 0;
    if (transfer.to != host) continue;
    for (const PlanIndex source : transfer.sources) CHECK(sent.insert(origins[source]).second);
  }
  CHECK(there > 0);
  CHECK(there == back);
  CHECK(plan.devices[host.index()].arena_bytes > 0);
  CHECK(plan.devices[host.index()].seconds == 0);
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

/// Where a device has a share of the bytes for activations, nothing fits without the means, and with them the same is
/// computed; with both the step is predicted no longer than with one of them.
void check_fits(const FrontGraphs& graphs, const WeightSource& weights, int devices, PlanOptions options,
                size_t tight_device, double share) {
  CAPTURE(devices);
  options.schedule = ScheduleKind::one_f_one_b;
  const Plan ample = std::get<Plan>(plan_in(graphs, devices, options, {}));
  CHECK_FALSE(has_clones(ample));
  CHECK_FALSE(has_host_memory(ample));
  // The same nodes on the same devices, so that the caps are those of what runs there.
  for (const PlanNode& node : ample.nodes) {
    if (node.phase == PlanPhase::forward) options.assignment[node.name] = static_cast<int>(node.device.index());
  }
  const std::vector<int64_t> caps = caps_with(ample, tight_device, share);
  options.may_recompute = false;
  options.may_offload = false;
  CHECK(std::holds_alternative<Infeasible>(plan_in(graphs, devices, options, caps)));
  const test::Outcome expected = run(ample, weights);
  std::map<Means, double> seconds;
  for (const Means means : {Means::recompute, Means::offload, Means::both}) {
    CAPTURE(static_cast<int>(means));
    options.may_recompute = means != Means::offload;
    options.may_offload = means != Means::recompute;
    const Result result = plan_in(graphs, devices, options, caps);
    REQUIRE(std::holds_alternative<Plan>(result));
    const Plan& tight = std::get<Plan>(result);
    check_plan(tight);
    CHECK((has_clones(tight) || has_host_memory(tight)));
    if (means == Means::recompute) CHECK_FALSE(has_host_memory(tight));
    if (means == Means::offload) CHECK_FALSE(has_clones(tight));
    CHECK(tells(tight, "computed again") == has_clones(tight));
    CHECK(tells(tight, "wait in host memory") == has_host_memory(tight));
    if (has_host_memory(tight)) check_host_traffic(tight);
    for (size_t d = 0; d < caps.size(); ++d) CHECK(tight.devices[d].arena_bytes <= caps[d]);
    // run_plan checks that the arenas are the plan's.
    const auto difference = test::find_difference(expected, run(tight, weights));
    CHECK_MESSAGE(!difference, difference.value_or(""));
    seconds[means] = tight.step_seconds;
  }
  CHECK(seconds[Means::both] <= seconds[Means::recompute]);
  CHECK(seconds[Means::both] <= seconds[Means::offload]);
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

TEST_CASE("fit memory: GPT-2, ResNet-50 and U-Net train in memory where they did not fit, with the same bits") {
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

namespace {

/// Eight layers of a product, a Tanh and a Dropout: what they keep is alike, and cheap to make again or to send.
FrontGraphs chain_graphs(const PlanOptions& options) {
  const auto graph_of = [](int64_t rows) {
    const std::string type = " f32[" + std::to_string(rows) + ",1024]";
    std::string text = "graph \"chain\" imported\ninput %x" + type + "\n";
    std::string nodes;
    std::string value = "%x";
    for (int i = 0; i < 8; ++i) {
      const std::string n = std::to_string(i);
      text += "parameter %w" + n + " f32[1024,1024] from \"w" + n + "\"\n";
      nodes += "%a" + n + type + " = MatMul(" + value + ", %w" + n + ") @a" + n + "\n";
      nodes += "%t" + n + type + " = Tanh(%a" + n + ") @t" + n + "\n";
      nodes += "%d" + n + type + " = Mul(%t" + n + ", %a" + n + ") @d" + n + "\n";
      value = "%d" + n;
    }
    return parse_graph(text + nodes + "output y = " + value + "\n");
  };
  return make_front_graphs(graph_of, options.batch, options, "chain");
}

/// The chain on one device with three fifths of the bytes for activations, and a link to the host of this rate.
Plan chain_plan(double host_bytes_per_second, bool may_recompute, double share) {
  PlanOptions options = options_for(LossKind::mse, 1);
  options.batch = 4096;
  options.schedule = ScheduleKind::one_f_one_b;
  const FrontGraphs graphs = chain_graphs(options);
  Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), 1);
  cluster.devices[0].rates.host_bytes_per_second = host_bytes_per_second;
  const Plan ample = std::get<Plan>(make_plan(graphs, cluster, options));
  cluster.devices[0].memory_bytes = caps_with(ample, 0, share)[0];
  options.may_recompute = may_recompute;
  return std::get<Plan>(make_plan(graphs, cluster, options));
}

}  // namespace

TEST_CASE("fit memory: the rate of the link to the host decides what is sent there and what is computed again") {
  const Plan slow = chain_plan(1e8, true, 0.6);
  CHECK(has_clones(slow));
  CHECK_FALSE(has_host_memory(slow));
  const Plan fast = chain_plan(1e12, true, 0.6);
  CHECK_FALSE(has_clones(fast));
  CHECK(has_host_memory(fast));
  const Plan medium = chain_plan(2e10, true, 0.6);
  CHECK(has_clones(medium));
  CHECK(has_host_memory(medium));
}

TEST_CASE("fit memory: copies to the host and back run beside the work when the link is fast enough") {
  // All copies there together take less than the forward pass, and all copies back less than the backward pass.
  const Plan ample = chain_plan(1e11, false, 1.0);
  const Plan tight = chain_plan(1e11, false, 0.7);
  REQUIRE(has_host_memory(tight));
  double copies_s = 0;
  for (const PlanTransfer& transfer : tight.transfers) copies_s += transfer.seconds[0];
  CHECK(copies_s > 0.05 * ample.step_seconds);
  CHECK(tight.step_seconds < ample.step_seconds + 0.1 * copies_s);
}

TEST_CASE("fit memory: what is forbidden and would do is suggested, with the host memory that it takes") {
  PlanOptions options = options_for(LossKind::mse, 1);
  options.batch = 4096;
  options.schedule = ScheduleKind::one_f_one_b;
  const FrontGraphs graphs = chain_graphs(options);
  const Plan ample = std::get<Plan>(plan_in(graphs, 1, options, {}));
  const std::vector<int64_t> caps = caps_with(ample, 0, 0.6);
  const auto suggestions_of = [&](const PlanOptions& request) {
    const Result result = plan_in(graphs, 1, request, caps);
    REQUIRE(std::holds_alternative<Infeasible>(result));
    std::string text;
    for (const std::string& suggestion : std::get<Infeasible>(result).suggestions) text += suggestion + "\n";
    return text;
  };
  options.may_recompute = false;
  options.may_offload = false;
  CHECK(suggestions_of(options).find("--recompute auto") != std::string::npos);
  options.may_offload = true;
  options.host_memory_bytes = 1 << 20;
  const std::string suggested = suggestions_of(options);
  const size_t at = suggested.find("--host-memory ");
  REQUIRE(at != std::string::npos);
  options.host_memory_bytes = std::stoll(suggested.substr(at + std::string("--host-memory ").size()));
  const Result fits = plan_in(graphs, 1, options, caps);
  REQUIRE(std::holds_alternative<Plan>(fits));
  CHECK(std::get<Plan>(fits).devices.back().arena_bytes <= options.host_memory_bytes);
}

TEST_CASE("fit memory: a Dropout that runs again has the mask it had") {
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

TEST_CASE("fit memory: what is kept in two shapes goes to host memory once") {
  const auto graph_of = [](int64_t rows) {
    const std::string n = std::to_string(rows);
    std::string text = "graph \"views\" imported\ninput %x f32[" + n + ",16]\n";
    std::string nodes;
    std::string value = "%x";
    for (int i = 0; i < 6; ++i) {
      const std::string l = std::to_string(i);
      const auto shape = [&](const char* columns) { return " f32[" + n + columns + "] = "; };
      text += "parameter %w" + l + " f32[16,16] from \"w" + l + "\"\n";
      nodes += "%a" + l + shape(",16") + "MatMul(" + value + ", %w" + l + ") @a" + l + "\n";
      nodes += "%t" + l + shape(",16") + "Tanh(%a" + l + ") @t" + l + "\n";  // its gradient reads %t
      nodes +=
          "%v" + l + shape(",4,4") + "Reshape(%t" + l + ") {allowzero = 0, shape = [" + n + ", 4, 4]} @v" + l + "\n";
      nodes += "%s" + l + shape(",4,4") + "Mul(%v" + l + ", %v" + l + ") @s" + l + "\n";  // its gradient reads %v
      nodes += "%r" + l + shape(",16") + "Reshape(%s" + l + ") {allowzero = 0, shape = [" + n + ", 16]} @r" + l + "\n";
      value = "%r" + l;
    }
    return parse_graph(text + nodes + "output y = " + value + "\n");
  };
  const PlanOptions options = options_for(LossKind::mse, 1);
  const FrontGraphs graphs = make_front_graphs(graph_of, kBatch, options, "views");
  check_fits(graphs, test::SeededWeights(kSeed), 1, options, 0, 0.75);
}
