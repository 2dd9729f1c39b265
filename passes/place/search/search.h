#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compiler/cost/cost_graph.h"
#include "passes/place/search/contract.h"

namespace mpc::place {

struct SearchOptions {
  SplitKind kind = SplitKind::any;
  /// Counted steps that may be spent, about a nanosecond each; 0: what the graph deserves (default_work).
  int64_t work = 0;
  /// Asked now and then; true ends the search with what it has.
  std::function<bool()> should_stop = {};
};

/// A split of a cost graph and what is known of it. Devices are numbered GPUs first, then CPU cores.
struct SearchResult {
  std::vector<int> device_of_node;
  Loads loads;               // [device]
  bool fits = false;         // every device holds its bytes, every node runs where it may
  double lower_bound = 0;    // of the largest load of any split of the kind
  bool is_optimal = false;   // no split of the kind is better; when !fits, none fits
  std::string method;        // what found it
  int cyclic_blocks = 0;     // contiguous splits: blocks that a cycle of the forward graph keeps together
  bool was_stopped = false;  // by should_stop
};

/// The best split found. Deterministic in graph and options unless should_stop ends it.
SearchResult search_split(const CostGraph& graph, const SearchOptions& options);

/// The work of search_split when none is given: ten seconds for splits of any shape, what the exact program needs up to
/// fifteen seconds for contiguous ones, and for those of thousands of blocks a first good answer only.
int64_t default_work(SplitKind kind);

}  // namespace mpc::place
