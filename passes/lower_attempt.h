#pragma once

#include <optional>
#include <vector>

#include "passes/back_half.h"
#include "passes/pack.h"

namespace mpc {

/// What is placed, with every operand where it is read: what a schedule orders and lowering makes instructions of.
struct LocalStep {
  Cluster cluster;  // with host memory where values wait there
  Graph main;
  std::optional<Graph> tail;
  Cuts cuts;

  std::vector<const Graph*> variants() const {
    std::vector<const Graph*> graphs = {&main};
    if (tail) graphs.push_back(&*tail);
    return graphs;
  }
};

/// Whether an attempt that takes `least_s` or more may be preferred to `rival`, which may be null.
bool may_win(bool is_of_parts, double least_s, const Attempt* rival);

/// From a placement to a plan with memory, not synchronized yet. Holds references: what it is made of must live on.
class AttemptLowering {
 public:
  AttemptLowering(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options,
                  const Observed& observed)
      : graphs_(graphs), cluster_(cluster), options_(options), observed_(observed) {}

  /// Inserts the transfers of the attempt's placement, with what it drops and what waits in host memory.
  LocalStep localize(Attempt& attempt) const;

  /// Schedules, lowers, and plans memory. `auto` has to do with less memory, by as much as the plan that it made
  /// exceeds the capacities.
  /// @return false, and no plan, where the step cannot be preferred to that of `rival`, which may be null.
  bool lower(const LocalStep& step, Attempt& attempt, const Attempt* rival,
             PackEffort effort = PackEffort::thorough) const;

 private:
  std::vector<int64_t> most_to_keep(const Cuts& cuts) const;
  void add_chunk_note(const Segments& segments, Attempt& attempt) const;
  Graph insert_transfers_of(const Graph& graph, const Attempt& attempt) const;

  const FrontGraphs& graphs_;
  const Cluster& cluster_;
  const PlanOptions& options_;
  const Observed& observed_;
};

}  // namespace mpc
