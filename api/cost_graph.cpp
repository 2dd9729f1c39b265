#include "mpc/cost_graph.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <functional>
#include <map>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/impl.h"
#include "api/table.h"
#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/json.h"
#include "compiler/base/text.h"
#include "compiler/cost/cost_graph.h"
#include "compiler/cost/parallel_graph.h"
#include "passes/place/parallel/stages.h"
#include "passes/place/search/search.h"

namespace mpc::v1 {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr double kUnitsPerSecond = 1e9;
// Counted steps end a search; the clock only where a machine is slower than this many times what was measured.
constexpr double kPatience = 4;
constexpr double kLongestRun = 15;  // seconds, without a budget
constexpr int kMostCpus = 4096;

void check(const CostGraphOptions& options) {
  if (options.budget_seconds) api::require_budget(*options.budget_seconds);
  if (options.cpus && (*options.cpus < 0 || *options.cpus > kMostCpus)) {
    throw Error(ErrorId::M003, "cpus", fmt::format("is {}, must be in [0, {}]", *options.cpus, kMostCpus));
  }
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Seconds that this thread has worked: a machine that is busy or stands still is not a slow one.
double worked_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  constexpr double kNano = 1e-9;
  return static_cast<double>(time.tv_sec) + kNano * static_cast<double>(time.tv_nsec);
}

double share(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

void add_devices(const mpc::CostGraph& graph, const place::SearchResult& result, CostGraphSplit& split) {
  for (int d = 0; d < graph.gpus + graph.cpus; ++d) {
    const size_t i = static_cast<size_t>(d);
    CostGraphDevice device;
    device.name = d < graph.gpus ? fmt::format("gpu:{}", d) : fmt::format("cpu:{}", d - graph.gpus);
    if (d < graph.gpus) device.capacity_bytes = graph.gpu_memory_bytes;
    if (i < result.loads.compute.size()) {
      device.compute = result.loads.compute[i];
      device.received = result.loads.received[i];
      device.sent = result.loads.sent[i];
      device.load = device.compute + device.received + device.sent;
      device.memory_bytes = result.loads.memory[i];
    }
    split.devices.push_back(std::move(device));
  }
  for (size_t i = 0; i < result.device_of_node.size(); ++i) {
    const int device = result.device_of_node[i];
    split.nodes.push_back({graph.nodes[i].id, device});
    ++split.devices[static_cast<size_t>(device)].nodes;
  }
}

std::string bytes_of(double bytes) {
  return bytes_text(static_cast<int64_t>(std::min(bytes, 9e18)));
}

/// The graph of kind "piper" that the text holds; nothing when it holds another one. Only a text with that word is read
/// for it: large graphs of the other kind are read once.
std::optional<ParallelGraph> parallel_graph_of(const std::string& text, const std::string& path) {
  // The quotes of a JSON text make a plain search stop at every key.
  constexpr std::string_view kWord = "\"piper\"";
  const std::boyer_moore_horspool_searcher word(kWord.begin(), kWord.end());
  if (std::search(text.begin(), text.end(), word) == text.end()) return std::nullopt;
  const Json json = parse_json(text, ErrorId::M066, path);
  if (!is_parallel_graph(json)) return std::nullopt;
  return parse_parallel_graph(json, path);
}

CostGraphSplit split_parallel(const ParallelGraph& graph, place::Work& work) {
  const place::ParallelResult result = place::search_stages(graph, work);
  CostGraphSplit split;
  split.graph = graph.name;
  split.time_unit = graph.time_unit;
  split.contiguous = true;
  split.feasible = result.fits;
  split.optimal = result.is_optimal;
  split.value = result.time;
  split.lower_bound = result.lower_bound;
  split.algorithm = result.method;
  split.device_count = graph.devices;
  split.device_bytes = graph.memory_bytes;
  for (const place::ParallelStage& from : result.stages) {
    CostGraphStage stage;
    const auto degree = std::ranges::find(graph.degrees, from.degree) - graph.degrees.begin();
    for (size_t i = 0; i < from.nodes.size(); ++i) {
      const ParallelNode& node = graph.nodes[static_cast<size_t>(from.nodes[i])];
      stage.nodes.push_back(node.id);
      stage.choices.push_back(node.choices[static_cast<size_t>(degree)][static_cast<size_t>(from.choices[i])].name);
      split.nodes.push_back({node.id, static_cast<int>(from.first_device)});
    }
    stage.degree = from.degree;
    stage.replicas = from.replicas;
    stage.in_flight = from.in_flight;
    stage.first_device = from.first_device;
    stage.time = from.time;
    stage.memory_bytes = from.memory_bytes;
    split.stages.push_back(std::move(stage));
  }
  return split;
}

OrderedJson json_of(const CostGraphStage& stage) {
  OrderedJson choices = OrderedJson::object();
  auto& members = choices.get_ref<OrderedJson::object_t&>();
  for (size_t i = 0; i < stage.nodes.size(); ++i)
    members.emplace_back(std::to_string(stage.nodes[i]), stage.choices[i]);
  return {{"nodes", stage.nodes},
          {"d", stage.replicas},
          {"t", stage.degree},
          {"variant", std::move(choices)},
          {"first_device", stage.first_device},
          {"microbatches_in_flight", stage.in_flight},
          {"time", stage.time},
          {"memory_bytes", stage.memory_bytes}};
}

/// "vanilla 3, activation recomp 1".
std::string counts_of(const CostGraphStage& stage) {
  std::map<std::string, int64_t> counts;
  for (const std::string& choice : stage.choices) ++counts[choice];
  std::string text;
  for (const auto& [name, count] : counts)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", escaped(name, 40), count);
  return text;
}

std::string stage_table(const CostGraphSplit& split) {
  api::Table table({"stage", "nodes", "devices", "replicas", "sharded over", "in flight", "time per sample", "memory",
                    "of", "computed"});
  for (size_t i = 0; i < split.stages.size(); ++i) {
    const CostGraphStage& stage = split.stages[i];
    table.add({std::to_string(i), count_text(static_cast<int64_t>(stage.nodes.size())),
               count_text(stage.replicas * stage.degree), count_text(stage.replicas), count_text(stage.degree),
               count_text(stage.in_flight), fmt::format("{:.6g}", stage.time), bytes_of(stage.memory_bytes),
               bytes_of(split.device_bytes), counts_of(stage)});
  }
  return table.text();
}

}  // namespace

CostGraphSplit split_cost_graph(const std::string& path, const CostGraphOptions& options) {
  const Clock::time_point start = Clock::now();
  check(options);
  const std::string text = read_text_file(path, kMaxJsonBytes);
  const double patience = kPatience * std::max(1.0, options.budget_seconds.value_or(kLongestRun));
  const double worked = worked_seconds();
  const auto should_stop = [worked, patience] { return worked_seconds() - worked > patience; };
  const std::string late =
      fmt::format("the clock ended the search after {:.0f} s: another run may give another split", patience);
  if (const std::optional<ParallelGraph> parallel = parallel_graph_of(text, path)) {
    if (options.cpus.value_or(0) > 0) {
      throw Error(ErrorId::M046, path, "stages of a graph of kind \"piper\" are on GPUs; CPU cores are not supported");
    }
    place::Work work(static_cast<int64_t>(options.budget_seconds.value_or(kLongestRun) * kUnitsPerSecond), should_stop);
    CostGraphSplit split = split_parallel(*parallel, work);
    if (split.graph.empty()) split.graph = path;
    if (work.was_stopped()) split.notes.push_back(late);
    split.seconds = seconds_since(start);
    return split;
  }
  mpc::CostGraph graph = parse_cost_graph(text, path);
  if (options.cpus) graph.cpus = *options.cpus;
  place::SearchOptions search;
  search.kind = options.contiguous ? place::SplitKind::contiguous : place::SplitKind::any;
  if (options.budget_seconds) search.work = static_cast<int64_t>(*options.budget_seconds * kUnitsPerSecond);
  search.should_stop = should_stop;
  const place::SearchResult result = place::search_split(graph, search);

  CostGraphSplit split;
  split.graph = graph.name.empty() ? path : graph.name;
  split.time_unit = graph.time_unit;
  split.contiguous = options.contiguous;
  split.feasible = result.fits;
  split.optimal = result.is_optimal;
  split.value = result.loads.largest;
  split.lower_bound = result.lower_bound;
  split.algorithm = result.method;
  split.device_count = graph.gpus + graph.cpus;
  add_devices(graph, result, split);
  if (result.was_stopped) split.notes.push_back(late);
  if (graph.repeated_nodes > 0)
    split.notes.push_back(fmt::format("{} rows repeat a node that costs nothing", graph.repeated_nodes));
  if (graph.self_loops > 0)
    split.notes.push_back(fmt::format("{} edges lead from a node to itself and are passed over", graph.self_loops));
  if (options.contiguous && result.cyclic_blocks > 0) {
    split.notes.push_back(
        fmt::format("the forward graph has cycles: {} blocks are on one, and each cycle stays on one device",
                    result.cyclic_blocks));
  }
  split.seconds = seconds_since(start);
  return split;
}

std::string CostGraphSplit::report_json() const {
  OrderedJson json = {{"version", 1}, {"feasible", feasible}, {"graph", graph}, {"contiguous", contiguous}};
  OrderedJson rows = OrderedJson::array();
  for (size_t d = 0; d < devices.size(); ++d) {
    const CostGraphDevice& device = devices[d];
    OrderedJson row = {{"id", d},
                       {"name", device.name},
                       {"nodes", device.nodes},
                       {"load", device.load},
                       {"compute", device.compute},
                       {"received", device.received},
                       {"sent", device.sent},
                       {"memory_bytes", device.memory_bytes}};
    if (device.capacity_bytes) row["capacity_bytes"] = *device.capacity_bytes;
    rows.push_back(std::move(row));
  }
  if (feasible) {
    OrderedJson assignment = OrderedJson::object();
    // Appended, not looked up: ids are distinct, and an ordered object is a list.
    auto& members = assignment.get_ref<OrderedJson::object_t&>();
    members.reserve(nodes.size());
    for (const CostGraphNode& node : nodes) members.emplace_back(std::to_string(node.id), node.device);
    json["assignment"] = std::move(assignment);
    json["objective"] = {{"name", stages.empty() ? "max_load" : "time_per_sample"},
                         {"value", value},
                         {"lower_bound", lower_bound},
                         {"optimal", optimal},
                         {"gap", share(value - lower_bound, value)}};
    if (stages.empty()) {
      json["devices"] = std::move(rows);
    } else {
      OrderedJson list = OrderedJson::array();
      for (const CostGraphStage& stage : stages) list.push_back(json_of(stage));
      json["stages"] = std::move(list);
    }
  } else {
    OrderedJson needs = OrderedJson::array();
    for (size_t d = 0; d < devices.size(); ++d) {
      const CostGraphDevice& device = devices[d];
      if (!device.capacity_bytes || device.memory_bytes <= *device.capacity_bytes) continue;
      needs.push_back({{"device", d},
                       {"name", device.name},
                       {"bytes", device.memory_bytes},
                       {"capacity_bytes", *device.capacity_bytes}});
    }
    json["proved"] = optimal;
    json["needs"] = std::move(needs);
    json["suggestions"] = {"give the devices more memory, or use more of them"};
  }
  json["algorithm"] = algorithm;
  json["notes"] = notes;
  json["seconds"] = seconds;
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string CostGraphSplit::report_text() const {
  const std::string unit = time_unit.empty() ? "" : " " + escaped(time_unit, 20);
  std::string text =
      fmt::format("{} on {} device{}, {} split\n\n", escaped(graph, 200), device_count, device_count == 1 ? "" : "s",
                  !stages.empty() ? "pipelined, replicated and sharded"
                  : contiguous    ? "contiguous"
                                  : "free");
  if (!feasible) text += optimal ? "no split fits\n" : "no split that fits was found\n";
  if (!stages.empty()) {
    text += stage_table(*this) + "\n";
  } else if (!nodes.empty()) {
    api::Table table({"device", "nodes", "compute", "received", "sent", "load", "memory", "of"});
    for (const CostGraphDevice& device : devices) {
      table.add({device.name, count_text(device.nodes), fmt::format("{:.6g}", device.compute),
                 fmt::format("{:.6g}", device.received), fmt::format("{:.6g}", device.sent),
                 fmt::format("{:.6g}", device.load), bytes_of(device.memory_bytes),
                 device.capacity_bytes ? bytes_of(*device.capacity_bytes) : "-"});
    }
    text += table.text() + "\n";
  }
  if (feasible) {
    text += fmt::format("{} {:.9g}{}, lower bound {:.9g}{}, ", stages.empty() ? "largest load" : "time per sample",
                        value, unit, lower_bound, unit);
    text += optimal ? "optimal\n" : fmt::format("gap {:.3f} %\n", 100 * share(value - lower_bound, value));
  }
  if (!algorithm.empty()) text += fmt::format("found by: {}\n", algorithm);
  for (const std::string& note : notes) text += fmt::format("note: {}\n", note);
  text += fmt::format("time: {}\n", seconds_text(seconds));
  return text;
}

}  // namespace mpc::v1
