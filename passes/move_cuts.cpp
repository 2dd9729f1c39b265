#include "passes/move_cuts.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/text.h"
#include "compiler/plan/host_memory.h"
#include "passes/back_half.h"
#include "passes/describe_plan.h"
#include "passes/place/problem.h"

namespace mpc {
namespace {

constexpr double kSecondsPerInstruction = 1e-5;  // of a plan: placing, ordering and packing, measured on the zoo
constexpr double kLeastGain = 1e-4;              // relative
constexpr size_t kAll = std::numeric_limits<size_t>::max();
constexpr size_t kCounts[] = {1, 2, 4, 8, 16, kAll};  // nodes that move at once

/// Forward nodes that move to a device.
struct CutMove {
  std::vector<PlanIndex> nodes;
  DeviceId to;
};

std::map<std::string, int> placement_of(const Plan& plan) {
  std::map<std::string, int> devices;
  for (const PlanNode& node : plan.nodes) {
    if (node.phase == PlanPhase::forward) devices[node.name] = static_cast<int>(node.device.index());
  }
  return devices;
}

/// The moves beside the cuts of a plan, the fewest nodes first.
class CutMoves {
 public:
  explicit CutMoves(const Plan& plan) : plan_(plan), nodes_of_(plan.devices.size()) {
    for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
      const PlanNode& node = plan.nodes[n];
      if (node.phase != PlanPhase::forward) continue;
      nodes_of_[node.device.index()].push_back(n);
      for (const PlanIndex output : node.outputs) maker_[output] = n;
      for (const PlanIndex input : node.inputs) reader_.emplace(input, n);  // the first one stays
    }
  }

  std::vector<CutMove> list() const {
    std::vector<CutMove> moves;
    for (const size_t count : kCounts) {
      for (const PlanTransfer& transfer : plan_.transfers) {
        const bool is_forward = transfer.phase == PlanPhase::forward;
        const bool has_host =
            is_host_memory(plan_.devices[transfer.from.index()]) || is_host_memory(plan_.devices[transfer.to.index()]);
        if (is_forward && !has_host) add(transfer, count, moves);
      }
    }
    return moves;
  }

 private:
  // What ends with the maker of a value goes to where it is read, what begins with its reader to where it is made.
  void add(const PlanTransfer& transfer, size_t count, std::vector<CutMove>& moves) const {
    const std::vector<PlanIndex>& makers = nodes_of_[transfer.from.index()];
    const std::vector<PlanIndex>& readers = nodes_of_[transfer.to.index()];
    for (size_t i = 0; i < transfer.sources.size(); ++i) {
      const auto maker = maker_.find(transfer.sources[i]);
      if (maker != maker_.end()) {
        const auto end = std::ranges::upper_bound(makers, maker->second);
        const auto most = static_cast<size_t>(end - makers.begin());
        moves.push_back({{end - static_cast<std::ptrdiff_t>(std::min(count, most)), end}, transfer.to});
      }
      const auto reader = reader_.find(transfer.destinations[i]);
      if (reader != reader_.end()) {
        const auto begin = std::ranges::lower_bound(readers, reader->second);
        const auto most = static_cast<size_t>(readers.end() - begin);
        moves.push_back({{begin, begin + static_cast<std::ptrdiff_t>(std::min(count, most))}, transfer.from});
      }
    }
  }

  const Plan& plan_;
  std::vector<std::vector<PlanIndex>> nodes_of_;  // [device] forward nodes, ascending
  std::map<PlanIndex, PlanIndex> maker_;          // by value
  std::map<PlanIndex, PlanIndex> reader_;         // by value: the first
};

class CutSearch {
 public:
  CutSearch(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options, Plan start,
            const Observed& observed)
      : graphs_(graphs), cluster_(cluster), options_(options), observed_(observed), best_(std::move(start)) {
    for (const Pin& pin : options.pins) pins_.push_back(regex_of(pin));
    options_.search_s = 0;
    options_.pins.clear();
    tried_.insert(placement_of(best_));
    silent_.verifies = false;  // what these passes make of such graphs was verified for the plan to begin with
  }

  Plan run(double seconds) {
    const double start_s = measure(best_);
    double spent_s = 0;
    bool is_over = false;
    for (bool is_shorter = true; is_shorter && !is_over;) {
      is_shorter = false;
      for (const CutMove& move : CutMoves(best_).list()) {
        is_over = spent_s >= seconds;
        if (is_over) break;
        std::optional<Plan> plan = after(move);
        if (!plan) continue;
        ++plans_;
        spent_s += kSecondsPerInstruction * static_cast<double>(plan->instructions.size());
        observed_.stage("move cuts", std::min(1.0, spent_s / seconds));
        if (measure(*plan) > measure(best_) * (1 - kLeastGain)) continue;
        best_ = std::move(*plan);
        is_shorter = true;
        break;
      }
    }
    best_.notes.push_back(fmt::format("plans with other cuts that were made: {}; {} instead of {}{}", plans_,
                                      seconds_text(measure(best_)), seconds_text(start_s),
                                      is_over ? "" : "; no move of nodes beside a cut is shorter still"));
    return std::move(best_);
  }

 private:
  double measure(const Plan& plan) const {
    const bool is_stream = !options_.train && graphs_.microbatches == 1;
    return is_stream ? plan.objective_value : plan.step_seconds;
  }

  /// The plan after a move; nothing where a pin forbids it, it was tried, or nothing fits.
  std::optional<Plan> after(const CutMove& move) {
    options_.assignment = placement_of(best_);
    for (const PlanIndex n : move.nodes) {
      const std::string& name = best_.nodes[n].name;
      if (std::ranges::any_of(pins_, [&](const std::regex& pin) { return std::regex_search(name, pin); }))
        return std::nullopt;
      options_.assignment[name] = static_cast<int>(move.to.index());
    }
    if (!tried_.insert(options_.assignment).second) return std::nullopt;
    Attempt attempt = best_attempt(graphs_, cluster_, options_, Observed(silent_));
    if (attempt.excess_bytes > 0) return std::nullopt;
    describe_plan(attempt.plan, attempt, graphs_, options_);
    return std::move(attempt.plan);
  }

  const FrontGraphs& graphs_;
  const Cluster& cluster_;
  PlanOptions options_;
  const Observed& observed_;
  Plan best_;
  std::vector<std::regex> pins_;
  PipelineHooks silent_;
  std::set<std::map<std::string, int>> tried_;
  int plans_ = 0;
};

}  // namespace

Plan move_cuts(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options, Plan start,
               const Observed& observed) {
  return CutSearch(graphs, cluster, options, std::move(start), observed).run(options.search_s);
}

}  // namespace mpc
