#include "mpc/explain.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <regex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/facts.h"
#include "api/impl.h"
#include "api/reference_evaluator.h"
#include "api/table.h"
#include "compiler/base/text.h"
#include "passes/back_half.h"
#include "passes/describe_plan.h"
#include "passes/observed.h"

// Alternatives are whole plans: the changed request goes through the same compiler, so that their times and bytes are
// as true as those of the plan that is explained.

namespace mpc {
namespace {

using v1::Alternative;
using v1::Cut;
using Json = nlohmann::ordered_json;

constexpr size_t kShown = 3;
// Boundaries move by one node, by some, by many: what lies between costs between.
constexpr size_t kMoves[] = {1, 4, 16};
// More cuts than these are listed without alternatives: each takes six plans.
constexpr size_t kMostExploredCuts = 8;
constexpr size_t kShownTransfers = 3;
constexpr size_t kMostRequests = 11;  // three numbers of devices, and the other schedules

int64_t sent_bytes(const Plan& plan) {
  int64_t bytes = 0;
  for (const PlanTransfer& transfer : plan.transfers) bytes += api::step_bytes(plan, transfer);
  return bytes;
}

int64_t peak_bytes(const Plan& plan) {
  int64_t bytes = 0;
  for (const PlanDevice& device : plan.devices) bytes = std::max(bytes, device.arena_bytes);
  return bytes;
}

std::vector<Cut> cuts_of(const Plan& plan) {
  std::map<std::pair<int, int>, Cut> cuts;
  for (const v1::TransferPlan& row : api::transfer_plans(plan)) {
    if (row.phase == "offload" || row.phase == "fetch") continue;
    // A gradient belongs to the cut that its value crossed on the way there.
    const bool is_backward = row.phase == "backward";
    const int from = is_backward ? row.to : row.from;
    const int to = is_backward ? row.from : row.to;
    Cut& cut = cuts[{from, to}];
    cut.from = from;
    cut.to = to;
    (is_backward ? cut.backward_bytes : cut.forward_bytes) += row.bytes;
    cut.transfers.push_back(row);
  }
  std::vector<Cut> result;
  for (auto& [key, cut] : cuts) {
    std::ranges::stable_sort(cut.transfers, [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
    result.push_back(std::move(cut));
  }
  return result;
}

class Explorer {
 public:
  /// @param progress  told before each plan, with what it changes and the share of the work done; may be empty.
  Explorer(const FrontGraphs& graphs, const Cluster& cluster, PlanOptions options, const Plan& plan, Progress progress)
      : graphs_(graphs), cluster_(cluster), options_(std::move(options)), plan_(plan), progress_(std::move(progress)) {
    options_.budget_s = kLatencyBudget;  // there are dozens of alternatives
    options_.search_s = 0;
  }

  /// About how many plans there will be.
  void expect(size_t cuts) { expected_ = cuts * 2 * std::size(kMoves) + kMostRequests; }

  std::vector<Alternative> other_boundaries(const Cut& cut) {
    std::vector<Alternative> tried;
    for (const size_t count : kMoves) {
      move(last_nodes(cut.from, count), cut.to, tried);
      move(first_nodes(cut.to, count), cut.from, tried);
    }
    return best_of(std::move(tried));
  }

  std::vector<Alternative> other_requests() {
    std::vector<Alternative> tried;
    const int count = cluster_.count();
    std::vector<int> counts = {count - 1, count / 2, 1};
    counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
    for (const int fewer : counts) {
      if (fewer < 1 || fewer >= count) continue;
      Cluster smaller;
      smaller.devices.assign(cluster_.devices.begin(), cluster_.devices.begin() + fewer);
      for (int from = 0; from < fewer; ++from) {
        for (int to = 0; to < fewer; ++to) smaller.links.push_back(cluster_.link(DeviceId(from), DeviceId(to)));
      }
      PlanOptions options = options_;
      options.assignment.clear();
      if (!options.pins.empty()) continue;  // pins name devices that may be gone
      attempt(fewer == 1 ? fmt::format("only {}", cluster_.devices.front().name)
                         : fmt::format("the first {} devices", fewer),
              smaller, options, tried);
    }
    for (const std::string& name : schedule_names()) {
      const std::optional<ScheduleKind> kind = parse_schedule(name);
      if (name == plan_.schedule || kind == ScheduleKind::automatic || graphs_.microbatches < 2) continue;
      PlanOptions options = options_;  // and the placement that suits the schedule
      options.schedule = *kind;
      attempt(fmt::format("schedule {}", name), cluster_, options, tried);
    }
    return best_of(std::move(tried));
  }

  int64_t plans_tried() const { return plans_tried_; }

 private:
  /// The plan's device of every forward node.
  std::map<std::string, int> placement() const {
    std::map<std::string, int> devices;
    for (const PlanNode& node : plan_.nodes) {
      if (node.phase == PlanPhase::forward) devices[node.name] = static_cast<int>(node.device.index());
    }
    return devices;
  }

  std::vector<PlanIndex> nodes_of(int device) const {
    std::vector<PlanIndex> nodes;
    for (PlanIndex n = 0; n < plan_.nodes.size(); ++n) {
      if (plan_.nodes[n].phase == PlanPhase::forward && plan_.nodes[n].device == DeviceId(device)) nodes.push_back(n);
    }
    return nodes;
  }
  std::vector<PlanIndex> last_nodes(int device, size_t count) const {
    std::vector<PlanIndex> nodes = nodes_of(device);
    if (nodes.size() <= count) return {};  // a device without nodes is another request
    return {nodes.end() - static_cast<std::ptrdiff_t>(count), nodes.end()};
  }
  std::vector<PlanIndex> first_nodes(int device, size_t count) const {
    std::vector<PlanIndex> nodes = nodes_of(device);
    if (nodes.size() <= count) return {};
    nodes.resize(count);
    return nodes;
  }

  /// Does the user say where one of them is? Then it is no choice of the planner's.
  bool is_pinned(const std::vector<PlanIndex>& nodes) const {
    return std::ranges::any_of(options_.pins, [&](const Pin& pin) {
      const std::regex pattern(pin.pattern);
      return std::ranges::any_of(nodes, [&](PlanIndex n) { return std::regex_search(plan_.nodes[n].name, pattern); });
    });
  }

  void move(const std::vector<PlanIndex>& nodes, int to, std::vector<Alternative>& tried) {
    if (nodes.empty() || is_pinned(nodes)) return;
    PlanOptions options = options_;
    options.pins.clear();
    options.assignment = placement();
    for (const PlanIndex n : nodes) options.assignment[plan_.nodes[n].name] = to;
    const std::string first = escaped(plan_.nodes[nodes.front()].name, 60);
    const std::string last = escaped(plan_.nodes[nodes.back()].name, 60);
    const std::string which = nodes.size() == 1 ? first : fmt::format("{} nodes, {} to {},", nodes.size(), first, last);
    attempt(fmt::format("move {} to {}", which, cluster_.devices[static_cast<size_t>(to)].name), cluster_, options,
            tried);
  }

  void attempt(std::string change, const Cluster& cluster, const PlanOptions& options,
               std::vector<Alternative>& tried) {
    if (progress_) {
      progress_(change, std::min(1.0, static_cast<double>(plans_tried_) / static_cast<double>(expected_)));
    }
    ++plans_tried_;
    // Not make_plan: what does not fit is not asked what would make it fit.
    PipelineHooks silent;
    silent.verifies = false;
    Attempt outcome = best_attempt(graphs_, in_precision(cluster, options.precision), options, Observed(silent));
    Alternative result;
    result.change = std::move(change);
    if (outcome.excess_bytes == 0) {
      describe_plan(outcome.plan, outcome, graphs_, options);
      result.fits = true;
      result.step_seconds = outcome.plan.step_seconds;
      result.sent_bytes = sent_bytes(outcome.plan);
      result.peak_bytes = peak_bytes(outcome.plan);
    } else {
      for (const PlanDevice& device : outcome.plan.devices) {
        if (device.arena_bytes > device.capacity_bytes)
          result.peak_bytes = std::max(result.peak_bytes, device.arena_bytes);
      }
    }
    tried.push_back(std::move(result));
  }

  static std::vector<Alternative> best_of(std::vector<Alternative> tried) {
    std::ranges::stable_sort(tried, [](const Alternative& a, const Alternative& b) {
      return std::pair(!a.fits, a.fits ? a.step_seconds : static_cast<double>(a.peak_bytes)) <
             std::pair(!b.fits, b.fits ? b.step_seconds : static_cast<double>(b.peak_bytes));
    });
    if (tried.size() > kShown) tried.resize(kShown);
    return tried;
  }

  const FrontGraphs& graphs_;
  const Cluster& cluster_;
  PlanOptions options_;
  const Plan& plan_;
  const Progress progress_;
  size_t expected_ = 1;
  int64_t plans_tried_ = 0;
};

std::string change_text(double value, double reference) {
  return reference > 0 ? fmt::format(" ({:+.1f} %)", 100 * (value / reference - 1)) : std::string();
}

std::string alternatives_text(const Plan& plan, const std::vector<Alternative>& alternatives) {
  api::Table table({"alternative", "step", "", "sent", "peak"}, {0});
  for (const Alternative& a : alternatives) {
    if (a.fits) {
      table.add({a.change, seconds_text(a.step_seconds), change_text(a.step_seconds, plan.step_seconds),
                 bytes_text(a.sent_bytes), bytes_text(a.peak_bytes)});
    } else {
      table.add({a.change, "does not fit", "", "", bytes_text(a.peak_bytes)});
    }
  }
  return table.text(4);
}

/// What waits in host memory: the values sent there, the largest first.
std::vector<v1::TransferPlan> offloaded(const Plan& plan) {
  std::vector<v1::TransferPlan> rows = api::transfer_plans(plan);
  std::erase_if(rows, [](const v1::TransferPlan& row) { return row.phase != "offload"; });
  std::ranges::stable_sort(rows, [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return rows;
}

/// Of all copies there and back per step; those of several devices run beside each other.
double host_copy_seconds(const Plan& plan) {
  double seconds = 0;
  for (const v1::TransferPlan& row : api::transfer_plans(plan))
    seconds += row.phase == "offload" || row.phase == "fetch" ? row.seconds : 0;
  return seconds;
}

std::string host_memory_text(const Plan& plan) {
  const std::vector<v1::TransferPlan> rows = offloaded(plan);
  if (rows.empty()) return "";
  int64_t bytes = 0;
  for (const v1::TransferPlan& row : rows) bytes += row.bytes;
  std::string text = fmt::format(
      "\nhost memory: {} value{}, {} per step to the host and back, copies take {}; at most {} wait there\n",
      rows.size(), rows.size() == 1 ? "" : "s", bytes_text(bytes), seconds_text(host_copy_seconds(plan)),
      bytes_text(plan.devices.back().arena_bytes));
  for (size_t i = 0; i < std::min(kShownTransfers, rows.size()); ++i) {
    text += fmt::format("  waits  {} of {} ({}, {} one way)\n", escaped(rows[i].value, 80),
                        plan.devices[static_cast<size_t>(rows[i].from)].name, bytes_text(rows[i].bytes),
                        seconds_text(rows[i].seconds));
  }
  return text;
}

Json host_memory_json(const Plan& plan) {
  Json values = Json::array();
  int64_t bytes = 0;
  for (const v1::TransferPlan& row : offloaded(plan)) {
    bytes += row.bytes;
    values.push_back({{"value", row.value}, {"device", row.from}, {"bytes", row.bytes}, {"seconds", row.seconds}});
  }
  if (values.empty()) return nullptr;
  return {{"bytes", bytes},
          {"seconds", host_copy_seconds(plan)},
          {"peak_bytes", plan.devices.back().arena_bytes},
          {"values", std::move(values)}};
}

/// Of the alternatives that fit.
double shortest_seconds(const v1::Explanation& explanation) {
  double shortest = std::numeric_limits<double>::infinity();
  const auto look = [&](const std::vector<Alternative>& alternatives) {
    for (const Alternative& a : alternatives) {
      if (a.fits) shortest = std::min(shortest, a.step_seconds);
    }
  };
  for (const Cut& cut : explanation.cuts) look(cut.alternatives);
  look(explanation.others);
  return shortest;
}

std::string text_of(const Plan& plan, const v1::Explanation& explanation) {
  std::string text = fmt::format("\nwhy this plan: step {}, {} sent, fullest device {}; {} other plans were made\n",
                                 seconds_text(plan.step_seconds), bytes_text(sent_bytes(plan)),
                                 bytes_text(peak_bytes(plan)), explanation.plans_tried);
  for (const Cut& cut : explanation.cuts) {
    const PlanDevice& from = plan.devices[static_cast<size_t>(cut.from)];
    const PlanDevice& to = plan.devices[static_cast<size_t>(cut.to)];
    text += fmt::format("\ncut {} | {}: {} value{}, {} forward and {} backward per step\n", from.name, to.name,
                        cut.transfers.size(), cut.transfers.size() == 1 ? "" : "s", bytes_text(cut.forward_bytes),
                        bytes_text(cut.backward_bytes));
    text += fmt::format("  work   {} | {}\n  memory {} of {} | {} of {}\n", seconds_text(from.seconds),
                        seconds_text(to.seconds), bytes_text(from.arena_bytes), bytes_text(from.capacity_bytes),
                        bytes_text(to.arena_bytes), bytes_text(to.capacity_bytes));
    for (size_t i = 0; i < std::min(kShownTransfers, cut.transfers.size()); ++i) {
      text += fmt::format("  sends  {} ({}, {})\n", escaped(cut.transfers[i].value, 80),
                          bytes_text(cut.transfers[i].bytes), cut.transfers[i].phase);
    }
    if (!cut.alternatives.empty()) text += alternatives_text(plan, cut.alternatives);
  }
  text += host_memory_text(plan);
  if (explanation.cuts.empty()) text += "\nno cut: nothing is sent between devices\n";
  if (!explanation.others.empty()) text += "\nother requests\n" + alternatives_text(plan, explanation.others);
  if (shortest_seconds(explanation) < plan.step_seconds) {
    text +=
        "\nsome of these are shorter than the plan: a placement is searched by an estimate of its step, and whole "
        "plans are made of few (--budget 10s: of more)\n";
  }
  return text;
}

Json alternatives_json(const std::vector<Alternative>& alternatives) {
  Json rows = Json::array();
  for (const Alternative& a : alternatives) {
    Json row = {{"change", a.change}, {"fits", a.fits}, {"peak_bytes", a.peak_bytes}};
    if (a.fits) {
      row["step_seconds"] = a.step_seconds;
      row["sent_bytes"] = a.sent_bytes;
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string json_of(const Plan& plan, const v1::Explanation& explanation) {
  Json cuts = Json::array();
  for (const Cut& cut : explanation.cuts) {
    const PlanDevice& from = plan.devices[static_cast<size_t>(cut.from)];
    const PlanDevice& to = plan.devices[static_cast<size_t>(cut.to)];
    Json values = Json::array();
    for (const v1::TransferPlan& row : cut.transfers)
      values.push_back({{"value", row.value}, {"bytes", row.bytes}, {"phase", row.phase}});
    cuts.push_back({{"from", cut.from},
                    {"to", cut.to},
                    {"forward_bytes", cut.forward_bytes},
                    {"backward_bytes", cut.backward_bytes},
                    {"seconds", {from.seconds, to.seconds}},
                    {"peak_bytes", {from.arena_bytes, to.arena_bytes}},
                    {"values", std::move(values)},
                    {"alternatives", alternatives_json(cut.alternatives)}});
  }
  const Json json = {{"cuts", std::move(cuts)},
                     {"host_memory", host_memory_json(plan)},
                     {"others", alternatives_json(explanation.others)},
                     {"plans_tried", explanation.plans_tried}};
  return json.dump(1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

namespace v1 {

Explanation explain(const Model& model, const Cluster& cluster, const CompileOptions& options, const Plan& plan) {
  const PlanOptions plan_options = api::plan_options(options);
  const ReferenceEvaluator evaluator;
  PipelineHooks hooks;
  hooks.verifies = options.verify_passes;
  const FrontGraphs graphs = make_front_graphs(model.impl().model, plan_options, evaluator, hooks);
  Explorer explorer(graphs, cluster.impl().cluster, plan_options, plan.impl().plan, options.progress);
  Explanation result;
  result.cuts = cuts_of(plan.impl().plan);
  std::vector<size_t> order(result.cuts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    return result.cuts[a].forward_bytes + result.cuts[a].backward_bytes >
           result.cuts[b].forward_bytes + result.cuts[b].backward_bytes;
  });
  const size_t explored = std::min(kMostExploredCuts, order.size());
  explorer.expect(explored);
  for (size_t i = 0; i < explored; ++i) {
    Cut& cut = result.cuts[order[i]];
    cut.alternatives = explorer.other_boundaries(cut);
  }
  result.others = explorer.other_requests();
  result.plans_tried = explorer.plans_tried();
  result.text = text_of(plan.impl().plan, result);
  result.json = json_of(plan.impl().plan, result);
  return result;
}

}  // namespace v1
}  // namespace mpc
