#include "mpc/cost_graph.h"

#include <chrono>
#include <cmath>
#include <ctime>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/table.h"
#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/json.h"
#include "compiler/base/text.h"
#include "compiler/cost/cost_graph.h"
#include "passes/place/search/search.h"

namespace mpc::v1 {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr double kMostBudget = 86'400;
constexpr double kLeastBudget = 1e-3;
constexpr double kUnitsPerSecond = 1e9;
// Counted steps end a search; the clock only where a machine is slower than this many times what was measured.
constexpr double kPatience = 4;
constexpr double kLongestRun = 15;  // seconds, without a budget
constexpr int kMostCpus = 4096;

void check(const CostGraphOptions& options) {
  if (options.budget_seconds && !(*options.budget_seconds >= kLeastBudget && *options.budget_seconds <= kMostBudget)) {
    throw Error(ErrorId::M003, "budget",
                fmt::format("is {} s, must be in [{}, {}]", *options.budget_seconds, kLeastBudget, kMostBudget));
  }
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

}  // namespace

CostGraphSplit split_cost_graph(const std::string& path, const CostGraphOptions& options) {
  const Clock::time_point start = Clock::now();
  check(options);
  mpc::CostGraph graph = parse_cost_graph(read_text_file(path, kMaxJsonBytes), path);
  if (options.cpus) graph.cpus = *options.cpus;
  place::SearchOptions search;
  search.kind = options.contiguous ? place::SplitKind::contiguous : place::SplitKind::any;
  if (options.budget_seconds) search.work = static_cast<int64_t>(*options.budget_seconds * kUnitsPerSecond);
  const double patience = kPatience * std::max(1.0, options.budget_seconds.value_or(kLongestRun));
  const double worked = worked_seconds();
  search.should_stop = [worked, patience] { return worked_seconds() - worked > patience; };
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
  add_devices(graph, result, split);
  if (result.was_stopped) {
    split.notes.push_back(
        fmt::format("the clock ended the search after {:.0f} s: another run may give another split", patience));
  }
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
    json["objective"] = {{"name", "max_load"},
                         {"value", value},
                         {"lower_bound", lower_bound},
                         {"optimal", optimal},
                         {"gap", share(value - lower_bound, value)}};
    json["devices"] = std::move(rows);
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
  std::string text = fmt::format("{} on {} device{}, {} split\n\n", escaped(graph, 200), devices.size(),
                                 devices.size() == 1 ? "" : "s", contiguous ? "contiguous" : "free");
  if (!feasible) text += optimal ? "no split fits\n" : "no split that fits was found\n";
  if (!nodes.empty()) {
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
    text += fmt::format("largest load {:.9g}{}, lower bound {:.9g}{}, ", value, unit, lower_bound, unit);
    text += optimal ? "optimal\n" : fmt::format("gap {:.3f} %\n", 100 * share(value - lower_bound, value));
  }
  if (!algorithm.empty()) text += fmt::format("found by: {}\n", algorithm);
  for (const std::string& note : notes) text += fmt::format("note: {}\n", note);
  text += fmt::format("time: {}\n", seconds_text(seconds));
  return text;
}

}  // namespace mpc::v1
