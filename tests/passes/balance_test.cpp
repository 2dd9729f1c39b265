// Balance that pays: the planner's splits of the sample models, at their real sizes, against splits into equal numbers
// of layers.

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "api/reference_evaluator.h"
#include "compiler/onnx/model.h"
#include "compiler/plan/simulate.h"
#include "compiler/plan/text.h"
#include "models/zoo.h"
#include "passes/pipeline.h"
#include "passes/place/evaluate.h"
#include "passes/place/problem.h"
#include "tests/unit/helpers.h"

namespace {

using namespace mpc;

constexpr int kMicrobatches = 8;
constexpr int64_t kRows = 4;  // of a micro-batch
// The same sums in another order.
constexpr double kRounding = 1e-9;

struct Sample {
  const char* title;
  const char* model;
  std::map<std::string, int64_t> sizes;
};

const Sample kSamples[] = {
    {"GPT-2 XL", "gpt2-xl", {}},
    {"BERT-large", "bert-base", {{"layers", 24}, {"hidden", 1024}, {"heads", 16}}},
    {"ResNet-50", "resnet50", {}},
    {"inception", "inception", {}},
    {"unet", "unet", {}},
    {"LSTM encoder-decoder", "encoder-decoder", {}},
    {"mixture of experts", "moe", {}},
};

PlanOptions plan_options(bool is_training) {
  PlanOptions options;
  options.batch = kRows * kMicrobatches;
  options.microbatches = kMicrobatches;
  options.train = is_training;
  options.loss = LossKind::mse;
  options.optimizer.optimizer = parse_optimizer("adam,lr=0.001");
  return options;
}

/// The graph of one micro-batch, for inference or with its gradients and an Adam.
FrontGraphs graphs_of(const Sample& sample, bool is_training) {
  const test::TemporaryFolder folder;
  zoo::Options written;
  written.weights = false;
  written.sizes = sample.sizes;
  zoo::write(sample.model, written, folder / "model.onnx");
  const onnx_io::Model model = onnx_io::Model::load(folder / "model.onnx");
  const ReferenceEvaluator evaluator;
  const PlanOptions options = plan_options(is_training);
  const auto import = [&](int64_t rows) {
    onnx_io::ImportOptions import_options;
    import_options.batch = rows;
    if (is_training) import_options.mode = onnx_io::ImportOptions::Mode::training;
    return model.import(import_options, evaluator);
  };
  return make_front_graphs(import, options.batch, options, sample.title);
}

Graph graph_of(const Sample& sample, bool is_training) {
  return graphs_of(sample, is_training).main;
}

/// The first `depth` parts of a node's name, without its last one.
std::string scope_of(const std::string& name, int depth) {
  size_t end = 0;
  for (int i = 0; i < depth; ++i) {
    const size_t next = name.find('/', end);
    if (next == std::string::npos) break;
    end = next + 1;
  }
  return name.substr(0, end);
}

/// The layer of every block, in the order in which layers begin; nodes outside of any are with the one before them.
std::vector<int> layers_of(const place::Problem& problem, const Graph& graph, int depth) {
  std::map<std::string, int> number;
  std::vector<int> layer;
  int last = 0;
  for (const NodeId id : problem.nodes) {
    const std::string scope = scope_of(graph.node(id).name, depth);
    if (!scope.empty() && !scope.starts_with("loss/"))
      last = number.emplace(scope, static_cast<int>(number.size())).first->second;
    layer.push_back(last);
  }
  return layer;
}

/// What everyone writes by hand: layer i of n on device i * k / n. Layers are what the model's names call so at the
/// least depth at which there is one for every device; where there is none, some devices get nothing.
std::vector<int> equal_layers(const place::Problem& problem, const Graph& graph) {
  constexpr int kDeepest = 4;
  std::vector<int> layer;
  int layers = 0;
  for (int depth = 1; depth <= kDeepest && layers < problem.device_count; ++depth) {
    layer = layers_of(problem, graph, depth);
    layers = 1 + *std::ranges::max_element(layer);
  }
  for (int& device : layer) device = device * problem.device_count / std::max(layers, problem.device_count);
  return place::with_followers(problem, layer);
}

struct Comparison {
  double planned_s = 0;
  double equal_s = 0;
  double bound_s = 0;
  double imbalance = 1;  // of the equal layers: the most compute of a device over the mean
};

Comparison compare(const Graph& graph, const Cluster& cluster) {
  PlaceOptions options;
  options.microbatches = kMicrobatches;
  const Placement placement = place_nodes(graph, cluster, options);
  place::Problem problem = place::make_problem(graph, cluster, {}, kMicrobatches);
  place::attach_followers(graph, problem);
  const place::Evaluation equal = place::evaluate(problem, equal_layers(problem, graph));
  CHECK(placement.overflow_bytes == 0);
  double compute_s = 0;
  for (const double seconds : equal.compute_s) compute_s += seconds;
  const double imbalance = *std::ranges::max_element(equal.compute_s) * problem.device_count / compute_s;
  return {placement.objective_value, equal.largest_load_s, placement.lower_bound, imbalance};
}

/// Two kinds of devices: every second one has half the rates and a third of the memory.
Cluster unequal_cluster(int count) {
  Cluster cluster = uniform_cluster(*find_device_kind(kAssumedGpuKind), count);
  for (size_t d = 1; d < cluster.devices.size(); d += 2) {
    Device& device = cluster.devices[d];
    DeviceRates& rates = device.rates;
    for (double* rate : {&rates.flops_f32, &rates.flops_f16, &rates.flops_f64, &rates.bytes_per_second}) *rate /= 2;
    rates.launch_s *= 2;
    device.memory_bytes /= 3;
  }
  return cluster;
}

TEST_CASE("balance: plans with other cuts shorten the step, the same way each time, and leave pins where they are") {
  const Sample sample{"LSTM encoder-decoder", "encoder-decoder", {}};
  const FrontGraphs graphs = graphs_of(sample, true);
  const Cluster gpus = uniform_cluster(*find_device_kind(kAssumedGpuKind), 8);
  PlanOptions options = plan_options(true);
  const Plan start = std::get<Plan>(make_plan(graphs, gpus, options));
  options.search_s = 10;
  const Plan searched = std::get<Plan>(make_plan(graphs, gpus, options));
  CHECK(searched.step_seconds < start.step_seconds);
  CHECK(print_plan(searched) == print_plan(std::get<Plan>(make_plan(graphs, gpus, options))));
  const auto tells = [](const Plan& plan, const char* text) {
    return std::ranges::any_of(plan.notes, [&](const auto& note) { return note.find(text) != std::string::npos; });
  };
  CHECK(tells(searched, "plans with other cuts that were made"));
  CHECK(tells(searched, "no move of nodes beside a cut is shorter still"));
  CHECK(!tells(start, "plans with other cuts that were made"));

  options.search_s = 1e-3;  // one plan uses it up
  const Plan short_search = std::get<Plan>(make_plan(graphs, gpus, options));
  CHECK(tells(short_search, "that were made: 1;"));
  CHECK(short_search.step_seconds <= start.step_seconds);

  options.search_s = 10;
  options.pins = {{".", 1}};  // every node
  const Plan pinned = std::get<Plan>(make_plan(graphs, gpus, options));
  CHECK(tells(pinned, "that were made: 0;"));
  for (const PlanNode& node : pinned.nodes) CHECK(node.device == DeviceId(1));
}

TEST_CASE("balance: the step on one device, beside which a speed-up is said, is that of a plan for one device") {
  const Sample sample{"ResNet-18", "resnet18", {}};
  for (const bool training : {false, true}) {
    const FrontGraphs graphs = graphs_of(sample, training);
    const auto plan_on = [&](int devices) {
      const Cluster gpus = uniform_cluster(*find_device_kind(kAssumedGpuKind), devices);
      return std::get<Plan>(make_plan(graphs, gpus, plan_options(training)));
    };
    const Plan alone = plan_on(1);
    CHECK(alone.one_device_seconds == doctest::Approx(alone.step_seconds).epsilon(1e-9));
    // Beside rounding: the updates of two devices are two nodes.
    CHECK(plan_on(2).one_device_seconds == doctest::Approx(alone.step_seconds).epsilon(0.01));
    // Of devices that differ the fastest, also where nobody but the caller chose devices.
    Cluster mixed = uniform_cluster(*find_device_kind("a100-40g"), 1);
    mixed.devices.push_back(uniform_cluster(*find_device_kind(kAssumedGpuKind), 1).devices.front());
    link_all(mixed);
    PlanOptions assigned = plan_options(training);
    for (int i = 0; i < graphs.main.node_count(); ++i) assigned.assignment[graphs.main.node(NodeId(i)).name] = 0;
    CHECK(std::get<Plan>(make_plan(graphs, mixed, assigned)).one_device_seconds ==
          doctest::Approx(alone.step_seconds).epsilon(1e-9));
  }
}

}  // namespace

TEST_CASE(
    "balance: no equal-layer split is faster than the plan, and where layers differ the plan gains 15 % and more") {
  constexpr double kUnbalanced = 1.2;
  constexpr double kGain = 1.15;
  int unbalanced = 0;
  for (const Sample& sample : kSamples) {
    for (const bool is_training : {false, true}) {
      const Graph graph = graph_of(sample, is_training);
      for (const int devices : {2, 4, 8}) {
        const Comparison result = compare(graph, uniform_cluster(*find_device_kind(kAssumedGpuKind), devices));
        const double gain = result.equal_s / result.planned_s;
        const std::string row = fmt::format(
            "{}, {}, {} devices: {:.1f} us planned, {:.1f} us in equal layers ({:+.1f} %; imbalance {:.2f}), at least "
            "{:.1f} us",
            sample.title, is_training ? "training" : "inference", devices, 1e6 * result.planned_s, 1e6 * result.equal_s,
            100 * (gain - 1), result.imbalance, 1e6 * result.bound_s);
        MESSAGE(row);
        CHECK(result.bound_s <= result.planned_s * (1 + kRounding));
        CHECK(result.planned_s <= result.equal_s * (1 + kRounding));
        // Where one node is longer than the mean, the bound says how little any split can gain.
        if (result.imbalance < kUnbalanced || result.equal_s < kGain * result.bound_s) continue;
        ++unbalanced;
        CHECK(gain >= kGain);
      }
    }
  }
  CHECK(unbalanced > 0);
}

TEST_CASE("balance: devices of speeds 2 to 1 and memories 3 to 1 are used within 5 % of the ideal") {
  for (const Sample& sample : kSamples) {
    // Two nodes are nearly all of its work, and a node runs on one device: the ideal is out of reach of any split.
    if (sample.model == std::string_view("encoder-decoder")) continue;
    for (const int devices : {2, 4, 8}) {
      const Comparison result = compare(graph_of(sample, false), unequal_cluster(devices));
      MESSAGE(fmt::format("{}, {} devices: {:.1f} us, ideal {:.1f} us", sample.title, devices, 1e6 * result.planned_s,
                          1e6 * result.bound_s));
      CHECK(result.planned_s <= 1.05 * result.bound_s);
    }
  }
}

TEST_CASE("balance: stages balanced by work alone are taken where that makes the step shorter, and only between GPUs") {
  constexpr int kDevices = 4;
  const Sample sample{"ResNet-18", "resnet18", {}};
  const FrontGraphs graphs = graphs_of(sample, true);
  const Cluster gpus = uniform_cluster(*find_device_kind(kAssumedGpuKind), kDevices);
  PlaceOptions options;
  options.microbatches = kMicrobatches;
  const Placement waiting = place_nodes(graphs.main, gpus, options);
  options.overlaps_transfers = true;
  const Placement overlapped = place_nodes(graphs.main, gpus, options);
  CHECK(overlapped.largest_work_s < waiting.largest_work_s);
  CHECK(overlapped.objective_value <= waiting.objective_value * (1 + kRounding));

  const auto is_balanced_by_work = [](const Plan& plan) {
    return std::ranges::any_of(
        plan.notes, [](const std::string& note) { return note.find("by their work alone") != std::string::npos; });
  };
  const auto plan_on = [&](const Cluster& cluster, ScheduleKind schedule) {
    PlanOptions plan = plan_options(true);
    plan.schedule = schedule;
    return std::get<Plan>(make_plan(graphs, cluster, plan));
  };
  const Plan best = plan_on(gpus, ScheduleKind::automatic);
  CHECK(is_balanced_by_work(best));
  // Nodes on devices as before, any schedule: the placement that waits for transfers gives no shorter step.
  PlanOptions as_waiting = plan_options(true);
  for (int i = 0; i < graphs.main.node_count(); ++i) {
    const Node& node = graphs.main.node(NodeId(i));
    if (node.phase == Phase::forward)
      as_waiting.assignment[node.name] = static_cast<int>(waiting.device_of_node[static_cast<size_t>(i)].index());
  }
  CHECK(simulate(best).step_seconds < simulate(std::get<Plan>(make_plan(graphs, gpus, as_waiting))).step_seconds);
  // A CPU device's copies take its core.
  CHECK(!is_balanced_by_work(plan_on(parse_devices("cpu:4", kAssumedGpuKind), ScheduleKind::automatic)));
}
