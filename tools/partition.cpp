#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/text.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/console.h"
#include "tools/options.h"

namespace mpc::tools {
namespace {

struct Flags {
  std::optional<std::string> model;
  std::string output;
  std::string dot;
  std::string dot_level = "block";
  int dot_blocks = DotOptions().most_blocks;
  bool dot_backward = false;
  std::string onnx;
  std::string trace;
  std::string report;
  std::string edited_plan;
  std::string cost_graph;
  bool contiguous = false;
  std::optional<std::string> budget;
  std::optional<int> cpus;
  bool parallel = false;
  std::optional<int> gpus_per_node;  // given: links between nodes are slower
  NodeOptions nodes;
  bool train = false;
  bool explain = false;
  DeviceFlags devices;
  ModelFlags reading;
  ShapeFlags shapes;
  SplitFlags split;
  TrainingFlags training;
};

DotOptions dot_options(const Flags& flags) {
  DotOptions options;
  options.with_backward = flags.dot_backward;
  options.most_blocks = flags.dot_blocks;
  if (flags.dot_level == "op") options.level = DotOptions::Level::op;
  if (flags.dot_level == "device") options.level = DotOptions::Level::device;
  return options;
}

void write_outputs(const Flags& flags, const Model& model, const Plan& plan, const Console& console) {
  if (!flags.output.empty()) plan.save(flags.output);
  if (flags.dot == "-") {
    console.data(plan.dot(dot_options(flags)));
  } else if (!flags.dot.empty()) {
    write_file_atomic(flags.dot, plan.dot(dot_options(flags)));
  }
  if (!flags.trace.empty()) write_file_atomic(flags.trace, plan.trace_json());
  if (!flags.report.empty()) write_file_atomic(flags.report, plan.report_html());
  if (!flags.onnx.empty()) plan.save_annotated(model, flags.onnx);
}

/// What a person changed in a plan file is kept; the rest is planned around it.
void keep_changes(const Flags& flags, const Model& model, const Cluster& cluster, const Console& console,
                  CompileOptions& options) {
  if (flags.edited_plan.empty()) return;
  options.assignment.clear();  // the plan was made with what annotations say
  options.kept = changed_devices(flags.edited_plan, model, cluster.device_count());
  if (options.kept.empty()) {
    console.note(flags.edited_plan + " has no changed \"device\": everything is planned");
    return;
  }
  console.note(fmt::format("{} nodes stay where {} puts them, the rest is planned around them", options.kept.size(),
                           flags.edited_plan));
}

Explanation explained(const Model& model, const Cluster& cluster, CompileOptions options, const Plan& plan,
                      const Console& console) {
  constexpr int64_t kParts = 1000;
  Progress progress(console, "explaining", kParts, "parts");
  options.progress = [&](std::string_view change, double share) {
    progress.update(static_cast<int64_t>(share * kParts), change);
  };
  return explain(model, cluster, options, plan);
}

/// "10s", "250ms", "2m" or a plain number of seconds. @throws Error(M003).
double budget_seconds(const std::string& text) {
  constexpr std::pair<std::string_view, double> kUnits[] = {{"ms", 1e-3}, {"s", 1}, {"m", 60}};
  std::string_view number = text;
  double unit = 1;
  for (const auto& [suffix, seconds] : kUnits) {
    if (!number.ends_with(suffix)) continue;
    number.remove_suffix(suffix.size());
    unit = seconds;
    break;
  }
  const std::optional<double> value = parse_number(number);
  if (!value || !std::isfinite(*value) || *value <= 0) {
    throw Error(ErrorId::M003, "--budget " + text, "is not a length of time", "for example 10s, 500ms or 2m");
  }
  return *value * unit;
}

/// The planner alone has its own few flags; others would have no effect. @throws Error(M001).
void refuse_other_flags(const Flags& flags, const CommandLine& line) {
  const std::set<std::string> own = {"--cost-graph", "--contiguous", "--cpus"};
  const std::set<std::string> everywhere = {"--json", "--quiet", "--verbose", "--help"};
  const bool is_alone = !flags.cost_graph.empty();
  for (const Flag& flag : line.flags()) {
    const std::string name = flag.name();
    if (!flag.is_given() || everywhere.contains(name)) continue;
    if (is_alone && !own.contains(name) && name != "--budget") {
      throw Error(ErrorId::M001, "mpc partition --cost-graph",
                  fmt::format("{} does not go with it", name.starts_with("-") ? name : "a model"),
                  "its flags are --contiguous, --budget, --cpus");
    }
    if (!is_alone && own.contains(name))
      throw Error(ErrorId::M001, "mpc partition", fmt::format("{} goes with --cost-graph only", name));
    if (flags.parallel && (name == "--offload" || name == "--host-memory"))
      throw Error(ErrorId::M001, "mpc partition --parallel",
                  name + " does not go with it: its plans keep or compute again");
    const bool states_links = name == "--gpus-per-node" || name == "--node-bandwidth";
    if (states_links && !flags.devices.cluster.empty())
      throw Error(ErrorId::M001, "mpc partition", fmt::format("{} does not go with --cluster", name),
                  "the file states the links");
    if (name == "--node-bandwidth" && !flags.parallel && !flags.gpus_per_node)
      throw Error(ErrorId::M001, "mpc partition", "--node-bandwidth goes with --gpus-per-node");
  }
}

int partition_cost_graph(const Flags& flags, Console& console) {
  require_other_file(console.json_path, flags.cost_graph);
  CostGraphOptions options;
  options.contiguous = flags.contiguous;
  if (flags.budget) options.budget_seconds = budget_seconds(*flags.budget);
  options.cpus = flags.cpus;
  const CostGraphSplit split = split_cost_graph(flags.cost_graph, options);
  console.say(split.report_text());
  console.json_text(split.report_json());
  return split.feasible ? 0 : exit_code(ErrorId::M050);
}

/// A pipeline of replicated and sharded stages: planned and reported, for mpc does not run such plans yet.
/// @throws Error(M046) for flags that ask for what a plan that runs has.
int partition_parallel(const Flags& flags, const Model& model, const Cluster& cluster, const CompileOptions& options,
                       Console& console) {
  for (const auto& [flag, file] : {std::pair("-o", flags.output), std::pair("--dot", flags.dot),
                                   std::pair("--onnx", flags.onnx), std::pair("--trace", flags.trace),
                                   std::pair("--report", flags.report), std::pair("--plan", flags.edited_plan)}) {
    if (!file.empty())
      throw Error(ErrorId::M046, fmt::format("{} {}", flag, file),
                  "does not go with --parallel: such plans are not run yet");
  }
  NodeOptions nodes = flags.nodes;
  if (flags.gpus_per_node) nodes.gpus_per_node = *flags.gpus_per_node;
  const ParallelPlan plan = plan_parallel(model, cluster, options, nodes);
  console.say(plan.report_text());
  console.json_text(plan.report_json());
  return plan.feasible ? 0 : exit_code(ErrorId::M050);
}

int partition(const Flags& flags, Console& console) {
  if (!flags.cost_graph.empty()) return partition_cost_graph(flags, console);
  if (!flags.model) throw Error(ErrorId::M001, "mpc partition", "no model is given");
  const std::string outputs[] = {flags.output, flags.dot, flags.trace, flags.onnx, flags.report, console.json_path};
  for (const std::string& output : outputs) {
    require_other_file(output, *flags.model);
    if (!flags.edited_plan.empty()) require_other_file(output, flags.edited_plan);
  }
  if (flags.dot == "-") console.keep_stdout_for_data();
  Cluster cluster = flags.devices.for_planning(console);
  if (flags.gpus_per_node && !flags.parallel)
    cluster = cluster.in_nodes(*flags.gpus_per_node, flags.nodes.bytes_per_second);
  CompileOptions options;
  flags.split.apply(cluster, options);
  if (flags.budget) options.budget_seconds = budget_seconds(*flags.budget);
  if (flags.train) options.training = flags.training.options();
  const Model model = flags.reading.load(*flags.model);
  options.bindings = flags.shapes.bindings(model);
  if (flags.parallel) return partition_parallel(flags, model, cluster, options, console);
  flags.split.keep_placement(model, cluster, console, options);
  keep_changes(flags, model, cluster, console, options);
  const std::optional<Plan> plan = compile_or_report(console, model, cluster, options);
  if (!plan) return exit_code(ErrorId::M050);
  write_outputs(flags, model, *plan, console);
  // Reports of large plans take a while to make: only for those who read them.
  if (!console.is_quiet) console.say(plan->report_text());
  if (!flags.explain) {
    if (console.wants_json()) console.json_text(plan->report_json());
    return 0;
  }
  const Explanation explanation = explained(model, cluster, options, *plan, console);
  console.say(explanation.text);
  if (!console.wants_json()) return 0;
  Json answer = Json::parse(plan->report_json());
  answer["explanation"] = Json::parse(explanation.json);
  console.json(answer);
  return 0;
}

}  // namespace

Body add_partition(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("model", flags->model, "the ONNX file").type("MODEL");
  flags->devices.add(line);
  flags->devices.add_profile(line);
  flags->reading.add(line);
  flags->shapes.add(line);
  flags->split.add(line);
  Flag train =
      line.flag("--train", flags->train, "plan a training step: forward, backward and update").group("Training");
  flags->training.add(line, train);
  line.option("-o,--output", flags->output, "write the plan").type("PLAN.json").group("Results");
  Flag dot = line.option("--dot", flags->dot, "write a picture of the plan in the DOT language (- for stdout)")
                 .type("FILE")
                 .group("Results");
  line.option("--dot-level", flags->dot_level, "op | block | device")
      .one_of({"op", "block", "device"})
      .needs(dot)
      .group("Results");
  line.option("--dot-blocks", flags->dot_blocks, "at level block: about this many boxes")
      .type("N")
      .range(1, 100000)
      .needs(dot)
      .group("Results");
  line.flag("--dot-backward", flags->dot_backward, "draw gradients and updates too").needs(dot).group("Results");
  line.option("--onnx", flags->onnx, "write the model with ONNX's standard multi-device annotations")
      .type("FILE")
      .group("Results");
  line.option("--trace", flags->trace, "write the predicted step as a trace for Perfetto")
      .type("FILE")
      .group("Results");
  line.flag("--parallel", flags->parallel,
            "plan stages that are replicated (data) and sharded (tensor) too; reported only")
      .group("Many GPUs");
  line.option("--gpus-per-node", flags->gpus_per_node,
              "GPUs of a node, which are linked directly (with --parallel 8, otherwise all)")
      .type("N")
      .range(1, 4096)
      .group("Many GPUs");
  line.option("--node-bandwidth", flags->nodes.bytes_per_second,
              "bytes per second from a GPU to another node (default 5e10)")
      .type("N")
      .group("Many GPUs");
  line.flag("--explain", flags->explain, "say for every cut what it costs, and what the best other plans would")
      .group("Results");
  line.option(
          "--plan", flags->edited_plan,
          "a plan of this model in which \"device\" of some nodes was changed: they stay there, the rest is planned")
      .type("EDITED.json");
  line.option("--report", flags->report, "write the plan as an HTML page: graph, timeline, memory, transfers")
      .type("FILE.html")
      .group("Results");
  line.option("--cost-graph", flags->cost_graph, "split a graph of measured costs instead of a model (docs/cli.md)")
      .type("GRAPH.json")
      .group("Cost graphs");
  line.flag("--contiguous", flags->contiguous, "every device gets one stage: a run of the order of nodes")
      .group("Cost graphs");
  line.option("--budget", flags->budget,
              "how long to search, in seconds of a current core: a cost graph (default 10s), --objective latency "
              "(default 400ms), or whole plans with other cuts for --objective throughput (default none)")
      .type("TIME")
      .group("Split");
  line.option("--cpus", flags->cpus, "CPU cores beside the GPUs, instead of the graph's number")
      .type("N")
      .range(0, 4096)
      .group("Cost graphs");
  line.when_accepted([flags, line] { refuse_other_flags(*flags, line); });  // while the line knows what was given
  return [flags](Console& console) { return partition(*flags, console); };
}

}  // namespace mpc::tools
