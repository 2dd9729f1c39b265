#include "mpc/parallel.h"

#include <chrono>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/impl.h"
#include "api/reference_evaluator.h"
#include "api/table.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "passes/pipeline.h"
#include "passes/place/parallel/model_graph.h"
#include "passes/place/parallel/stages.h"

namespace mpc::v1 {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int64_t kWork = 60'000'000'000;  // counted steps of about a nanosecond
constexpr int kMostGpusPerNode = 4096;

place::Machines machines_of(const mpc::Cluster& cluster, const NodeOptions& nodes) {
  const mpc::Device& first = cluster.devices.front();
  for (const mpc::Device& device : cluster.devices) {
    if (device.kind != first.kind || device.memory_bytes != first.memory_bytes || device.backend != first.backend) {
      throw Error(ErrorId::M046, device.name,
                  fmt::format("differs from {}: stages are replicated over equal devices only", first.name));
    }
  }
  if (nodes.gpus_per_node < 1 || nodes.gpus_per_node > kMostGpusPerNode) {
    throw Error(ErrorId::M003, "GPUs per node",
                fmt::format("are {}, must be in [1, {}]", nodes.gpus_per_node, kMostGpusPerNode));
  }
  if (!(nodes.bytes_per_second >= 1) || !std::isfinite(nodes.bytes_per_second)) {
    throw Error(ErrorId::M003, "links between nodes",
                fmt::format("carry {} bytes per second, must be at least 1", nodes.bytes_per_second));
  }
  place::Machines machines;
  machines.gpu = first;
  machines.gpus = cluster.count();
  machines.gpus_per_node = nodes.gpus_per_node;
  machines.bytes_per_second_between_nodes = nodes.bytes_per_second;
  machines.bytes_per_second_in_node = nodes.bytes_per_second;
  if (cluster.count() > 1) {
    const Link& link = cluster.link(DeviceId(0), DeviceId(1));
    machines.bytes_per_second_in_node = link.bytes_per_second;
    machines.latency_in_node_s = link.latency_s;
  }
  return machines;
}

ParallelStage public_stage(const place::ModelGraph& model, const place::ParallelStage& from) {
  ParallelStage stage;
  const auto [first, last] = std::ranges::minmax(from.nodes);
  stage.first = model.blocks[static_cast<size_t>(first)].first;
  stage.last = model.blocks[static_cast<size_t>(last)].last;
  stage.blocks = static_cast<int>(from.nodes.size());
  for (const int choice : from.choices) stage.recomputed += choice > 0;
  for (const int block : from.nodes) stage.parameters += model.blocks[static_cast<size_t>(block)].parameters;
  stage.degree = from.degree;
  stage.replicas = from.replicas;
  stage.in_flight = from.in_flight;
  stage.first_device = from.first_device;
  stage.seconds = from.time;
  stage.memory_bytes = from.memory_bytes;
  return stage;
}

std::string bytes_of(double bytes) {
  return bytes_text(static_cast<int64_t>(std::min(bytes, 9e18)));
}

double share(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

}  // namespace

ParallelPlan plan_parallel(const Model& model, const Cluster& cluster, const CompileOptions& options,
                           const NodeOptions& nodes) {
  const Clock::time_point start = Clock::now();
  const PlanOptions plan_options = api::plan_options(options);
  const place::Machines machines = machines_of(in_precision(cluster.impl().cluster, plan_options.precision), nodes);
  if (!plan_options.pins.empty() || !plan_options.assignment.empty()) {
    throw Error(ErrorId::M046, "pins", "do not go with replicated and sharded stages");
  }
  PipelineHooks hooks;
  hooks.progress = options.progress;
  hooks.verifies = options.verify_passes;
  const FrontGraphs front = make_front_graphs(model.impl().model, plan_options, ReferenceEvaluator(), hooks);
  const place::ModelGraph graph = place::model_graph(front.main, machines, front.microbatches);
  place::Work work(kWork);
  const place::ParallelResult result = place::search_stages(graph.graph, work);

  ParallelPlan plan;
  plan.feasible = result.fits;
  plan.device_count = machines.gpus;
  plan.device_bytes = machines.gpu.memory_bytes;
  plan.microbatches = front.microbatches;
  plan.blocks = static_cast<int>(graph.blocks.size());
  for (const place::ModelBlock& block : graph.blocks) plan.parameters += block.parameters;
  for (const place::ParallelStage& stage : result.stages) plan.stages.push_back(public_stage(graph, stage));
  plan.seconds = result.time;
  plan.lower_bound = result.lower_bound;
  plan.optimal = result.is_optimal;
  plan.notes = cluster.notes();
  plan.notes.push_back("optimizer state is divided over the replicas of a stage (ZeRO-1)");
  plan.notes.push_back("this version of mpc plans replicated and sharded stages and does not run them");
  plan.planning_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return plan;
}

std::string ParallelPlan::report_json() const {
  OrderedJson json = {{"version", 1}, {"feasible", feasible}};
  if (feasible) {
    OrderedJson rows = OrderedJson::array();
    for (const ParallelStage& stage : stages) {
      rows.push_back({{"first", stage.first},
                      {"last", stage.last},
                      {"blocks", stage.blocks},
                      {"recomputed", stage.recomputed},
                      {"parameters", stage.parameters},
                      {"d", stage.replicas},
                      {"t", stage.degree},
                      {"first_device", stage.first_device},
                      {"microbatches_in_flight", stage.in_flight},
                      {"seconds", stage.seconds},
                      {"memory_bytes", stage.memory_bytes}});
    }
    json["stages"] = std::move(rows);
    json["objective"] = {{"name", "time_per_microbatch"},
                         {"value", seconds},
                         {"lower_bound", lower_bound},
                         {"optimal", optimal},
                         {"gap", share(seconds - lower_bound, seconds)}};
  } else {
    json["proved"] = optimal;
    json["suggestions"] = {"use more devices, devices with more memory, or smaller micro-batches"};
  }
  json["parameters"] = parameters;
  json["microbatches"] = microbatches;
  json["devices"] = device_count;
  json["notes"] = notes;
  json["seconds"] = planning_seconds;
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string ParallelPlan::report_text() const {
  std::string text =
      fmt::format("{} parameters in {} blocks on {} devices, {} micro-batches\n\n", count_text(parameters),
                  count_text(blocks), count_text(device_count), count_text(microbatches));
  if (feasible) {
    api::Table table({"stage", "from", "to", "blocks", "again", "parameters", "devices", "replicas", "sharded over",
                      "in flight", "time", "memory", "of"});
    for (size_t i = 0; i < stages.size(); ++i) {
      const ParallelStage& stage = stages[i];
      table.add({std::to_string(i), escaped(stage.first, 40), escaped(stage.last, 40), count_text(stage.blocks),
                 count_text(stage.recomputed), count_text(stage.parameters), count_text(stage.replicas * stage.degree),
                 count_text(stage.replicas), count_text(stage.degree), count_text(stage.in_flight),
                 seconds_text(stage.seconds), bytes_of(stage.memory_bytes),
                 bytes_of(static_cast<double>(device_bytes))});
    }
    text += table.text() + "\n";
    text +=
        fmt::format("time per micro-batch {}, lower bound {}, {}\n", seconds_text(seconds), seconds_text(lower_bound),
                    optimal ? "optimal" : fmt::format("gap {:.3f} %", 100 * share(seconds - lower_bound, seconds)));
  } else {
    text += optimal ? "no pipeline fits\n" : "no pipeline that fits was found\n";
    text += "use more devices, devices with more memory, or smaller micro-batches\n";
  }
  for (const std::string& note : notes) text += fmt::format("note: {}\n", note);
  text += fmt::format("planned in {}\n", seconds_text(planning_seconds));
  return text;
}

}  // namespace mpc::v1
