#include "passes/place/search/search.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "passes/place/search/canonical.h"
#include "passes/place/search/coarsen.h"
#include "passes/place/search/contiguous.h"
#include "passes/place/search/exhaust.h"
#include "passes/place/search/forced_cuts.h"
#include "passes/place/search/portfolio.h"
#include "passes/place/search/spread_bound.h"
#include "passes/place/search/weightless.h"

namespace mpc::place {
namespace {

constexpr uint64_t kSeed = 20;
constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kMostCells = 40'000'000;      // (block, set of devices) of the dynamic programs
constexpr int64_t kMostCounters = 200'000'000;  // (tensor, device) of the annealer
constexpr int64_t kMostIdealWords = 25'000'000;
constexpr int kMostIdeals = 400'000;
constexpr int kFewIdeals = 200'000;  // without a budget: half a second when there turn out to be more
constexpr int kFewBlocks = 1500;
constexpr int64_t kOrdersWork = kSecond / 5;  // without a budget, after an exact attempt
// A free search begins with stages, for a quarter of its work or, where that is less, as long as --contiguous alone
// would take for all measured graphs: most need a tenth of it.
constexpr int64_t kShareForStages = 4;
constexpr int64_t kLeastForStages = 4 * kOrdersWork;
constexpr int64_t kShareForBound = 64;  // of the work of a free search
constexpr int kExhaustBlocks = 64;      // branch and bound is tried before everything else
constexpr int kProofBlocks = 2500;      // and afterwards, as a proof
constexpr double kSameValue = 1e-9;

/// No device of a kind stays empty in every good split but those beyond the number of blocks. For the dynamic programs
/// the sets of devices must be few too. @return whether devices were left out that could have helped.
bool limit_devices(Instance& instance, bool for_dynamic_program) {
  for (DeviceKind& kind : instance.kinds) kind.count = std::min(kind.count, instance.blocks);
  if (!for_dynamic_program) return false;
  bool is_limited = false;
  const auto cells = [&] {
    int64_t count = instance.blocks + 1;
    for (const DeviceKind& kind : instance.kinds) count *= kind.count + 1;
    return count;
  };
  while (cells() > kMostCells) {
    DeviceKind& most = instance.kinds.back().count > 1 ? instance.kinds.back() : instance.kinds.front();
    most.count = (most.count + 1) / 2;
    is_limited = true;
  }
  return is_limited;
}

class Search {
 public:
  Search(const CostGraph& graph, const SearchOptions& options)
      : graph_(graph),
        options_(options),
        has_budget_(options.work > 0),
        work_(has_budget_ ? options.work : default_work(options.kind), options.should_stop),
        random_(kSeed) {}

  SearchResult run() {
    if (options_.kind == SplitKind::contiguous) {
      split_in_stages(work_);
    } else {
      // A free split is never worse than the contiguous one, however short its budget; most of that it keeps.
      const int64_t most = work_.left() / kShareForStages, units = std::max(most, kLeastForStages);
      Work share(units, options_.should_stop);
      split_in_stages(share);
      result_.was_stopped = share.was_stopped();
      work_.spend(std::min(units - share.left(), most));
      result_.is_optimal = false;  // of splits of any shape
      result_.method = "contiguous";
      split_freely();
    }
    finish();
    return std::move(result_);
  }

 private:
  /// The device numbers of the graph for those of a limited instance.
  int device_of_graph(const Instance& instance, int device) const {
    const int gpus = instance.kinds[0].count;
    return device < gpus ? device : graph_.gpus + device - gpus;
  }

  /// Stages with a budget get all of it; without one, and to begin a free split with, what they deserve.
  ContiguousOptions stage_options(int blocks, const Work& work) const {
    const bool is_free = options_.kind == SplitKind::any, has_budget = has_budget_ && !is_free;
    ContiguousOptions stages;
    if (!has_budget && blocks > kFewBlocks) return stages;
    const int64_t words = (blocks + 63) / 64;
    stages.most_ideals =
        static_cast<int>(std::min<int64_t>(has_budget ? kMostIdeals : kFewIdeals, kMostIdealWords / words));
    stages.search_work = has_budget ? work.left() : kOrdersWork;
    stages.exact_work = has_budget ? work.left() / 2  // the rest for orders
                        : is_free  ? std::max<int64_t>(0, work.left() - 2 * kOrdersWork) / 2
                                   : work.left();
    return stages;
  }

  /// The best split without the bytes of blocks that take no time is the best one when they fit beside their
  /// neighbours, and hardly ever they do not. @return whether they do.
  bool split_without_weightless(const Contraction& contraction, Work& work) {
    const Folding folding = fold_weightless(contraction.instance);
    const Instance& folded = folding.instance;
    if (folded.blocks == contraction.instance.blocks) return false;
    ContiguousOptions stages = stage_options(folded.blocks, work);
    stages.search_work = 0;
    const ContiguousSplit found = split_contiguous(folded, stages, random_, work);
    if (!found.is_optimal) return false;
    lower_bound_ = found.split.value;
    if (!found.split.device_of_block.empty()) {
      std::vector<int> device_of_block;
      for (const int group : folding.group_of_block)
        device_of_block.push_back(found.split.device_of_block[static_cast<size_t>(group)]);
      if (loads_of(contraction.instance, device_of_block).overflow > 0) return false;
      keep(contraction, device_of_block);
    }
    result_.is_optimal = true;
    result_.method = found.method;
    return true;
  }

  void split_in_stages(Work& work) {
    Contraction contraction = contract(graph_, SplitKind::contiguous);
    lower_bound_ = work_bound(contraction.instance);
    result_.cyclic_blocks = contraction.cyclic_blocks;
    const int blocks = contraction.instance.blocks;
    const ContiguousOptions stages = stage_options(blocks, work);
    const bool is_limited = limit_devices(contraction.instance, true);
    if (stages.most_ideals > 0 && !is_limited && split_without_weightless(contraction, work)) return;
    const ContiguousSplit found = split_contiguous(contraction.instance, stages, random_, work);
    result_.is_optimal = found.is_optimal && !is_limited;
    result_.method = found.method;
    if (found.split.device_of_block.empty()) return;
    if (options_.kind == SplitKind::contiguous && !result_.is_optimal)
      lower_bound_ = forced_cuts_bound(contraction.instance, lower_bound_, found.split.value);
    keep(contraction, found.split.device_of_block);
  }

  void keep(const Contraction& contraction, const std::vector<int>& device_of_block) {
    judge(contraction.instance, device_of_block);
    result_.device_of_node.resize(graph_.nodes.size());
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const int device = device_of_block[static_cast<size_t>(contraction.block_of_node[i])];
      result_.device_of_node[i] = device_of_graph(contraction.instance, device);
    }
  }

  /// Loads from scratch, on the devices of the graph.
  void judge(const Instance& instance, const std::vector<int>& device_of_block) {
    const Loads loads = loads_of(instance, device_of_block);
    const size_t devices = static_cast<size_t>(graph_.gpus + graph_.cpus);
    result_.loads = {std::vector<double>(devices, 0),
                     std::vector<double>(devices, 0),
                     std::vector<double>(devices, 0),
                     std::vector<double>(devices, 0),
                     loads.largest,
                     loads.overflow};
    for (int d = 0; d < instance.devices(); ++d) {
      const size_t from = static_cast<size_t>(d), to = static_cast<size_t>(device_of_graph(instance, d));
      result_.loads.compute[to] = loads.compute[from];
      result_.loads.received[to] = loads.received[from];
      result_.loads.sent[to] = loads.sent[from];
      result_.loads.memory[to] = loads.memory[from];
    }
  }

  void split_freely() {
    Contraction contraction = contract(graph_, SplitKind::any);
    Instance& instance = contraction.instance;
    lower_bound_ = work_bound(instance);  // blocks that only stages keep together are apart here
    limit_devices(instance, false);
    Split best = start_of(contraction);
    if (best.device_of_block.empty()) return;  // some block may run nowhere
    if (instance.blocks <= kExhaustBlocks && try_all(instance, best)) {
      result_.is_optimal = true;
    } else if (int64_t{instance.devices()} * instance.tensors() <= kMostCounters && instance.devices() > 1) {
      const int64_t units = work_.left() / kShareForBound;
      work_.spend(units);
      bound_work_ = Work(units, options_.should_stop);
      const Split found = split_any(instance, best, random_, work_);
      if (found.overflow < best.overflow || (found.overflow == best.overflow && found.value < best.value)) {
        result_.method = "annealing";
        best = found;
      }
    }
    if (!result_.is_optimal && best.overflow == 0) raise_bound(instance, best);
    keep(contraction, best.device_of_block);
  }

  /// A bound for a good split, or the proof that it is the best one, or a better one.
  void raise_bound(const Instance& instance, Split& best) {
    lower_bound_ = forced_cuts_bound(instance, lower_bound_, best.value);
    if (lower_bound_ >= best.value || bound_work_.is_over()) return;
    if (instance.blocks <= kProofBlocks && branch(instance, best, bound_work_.left() / 2, bound_work_)) {
      result_.is_optimal = true;
      return;
    }
    // A better split keeps these together: either there is none, or the bound of the groups is one.
    const Instance groups = with_common_tensors(grouped(instance, forced_groups(instance, best.value)));
    lower_bound_ = std::max(lower_bound_, std::min(best.value, spread_bound(groups, random_, bound_work_)));
  }

  /// The contiguous split when there is one, otherwise blocks where they are fast and bytes are free.
  Split start_of(const Contraction& contraction) {
    const Instance& instance = contraction.instance;
    Split start;
    if (!result_.device_of_node.empty()) {
      start.device_of_block.resize(static_cast<size_t>(instance.blocks));
      for (size_t i = 0; i < graph_.nodes.size(); ++i) {
        const int device = result_.device_of_node[i];
        start.device_of_block[static_cast<size_t>(contraction.block_of_node[i])] =
            device < graph_.gpus ? std::min(device, instance.kinds[0].count - 1)
                                 : device - graph_.gpus + instance.kinds[0].count;
      }
    } else {
      start.device_of_block = spread(instance);
      result_.method = "spread by memory";
    }
    if (!start.device_of_block.empty()) {
      const Loads loads = loads_of(instance, start.device_of_block);
      start.value = loads.overflow > 0 ? kForbidden : loads.largest;
      start.overflow = loads.overflow;
    }
    return start;
  }

  /// Blocks with the most bytes first, each to the device with the most room. Empty when a block may run nowhere.
  static std::vector<int> spread(const Instance& instance) {
    std::vector<int> order(static_cast<size_t>(instance.blocks)), device_of_block(order.size(), 0);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return instance.memory[static_cast<size_t>(a)] > instance.memory[static_cast<size_t>(b)];
    });
    std::vector<double> memory(static_cast<size_t>(instance.devices()), 0);
    for (const int block : order) {
      int best = -1;
      for (int pass = 0; pass < 2 && best < 0; ++pass) {  // CPU cores only for what runs on no GPU
        for (int device = 0; device < instance.devices(); ++device) {
          const int kind = instance.kind_of(device);
          if ((kind > 0) != (pass > 0) ||
              instance.kinds[static_cast<size_t>(kind)].time[static_cast<size_t>(block)] == kForbidden)
            continue;
          if (best < 0 || memory[static_cast<size_t>(device)] < memory[static_cast<size_t>(best)]) best = device;
        }
      }
      if (best < 0) return {};
      device_of_block[static_cast<size_t>(block)] = best;
      memory[static_cast<size_t>(best)] += instance.memory[static_cast<size_t>(block)];
    }
    return device_of_block;
  }

  /// Branch and bound with a tenth of the work. @return whether it was complete.
  bool try_all(const Instance& instance, Split& best) {
    // A short search first: the better the bound, the fewer the branches.
    Work first(work_.left() / 50, options_.should_stop);
    work_.spend(first.left());
    const Split found = split_any(instance, best, random_, first);
    if (found.overflow < best.overflow || found.value < best.value) {
      best = found;
      result_.method = "annealing";
    }
    return branch(instance, best, work_.left() / 10, work_);
  }

  /// Branch and bound with so many units of the work. @return whether no split is better than the best one afterwards.
  bool branch(const Instance& instance, Split& best, int64_t units, Work& work) {
    Work share(units, options_.should_stop);
    const ExhaustResult all = split_exhaustively(instance, best.value * (1 - kSameValue), share);
    work.spend(units - share.left());
    if (all.split) {
      best = *all.split;
      result_.method = "branch and bound";
    }
    return all.is_complete;
  }

  void finish() {
    result_.was_stopped = result_.was_stopped || work_.was_stopped();
    if (result_.device_of_node.empty()) {
      result_.is_optimal = result_.is_optimal || lower_bound_ == kForbidden;
      return;
    }
    result_.fits = result_.loads.overflow == 0 && result_.loads.largest < kForbidden;
    if (!result_.fits) return;
    result_.lower_bound = std::min(lower_bound_, result_.loads.largest);
    if (result_.loads.largest <= lower_bound_ * (1 + kSameValue)) result_.is_optimal = true;
    if (result_.is_optimal) result_.lower_bound = result_.loads.largest;
  }

  const CostGraph& graph_;
  const SearchOptions& options_;
  bool has_budget_;
  Work work_;
  Work bound_work_{0};  // the part of work_ for bounds
  Random random_;
  double lower_bound_ = 0;
  SearchResult result_;
};

}  // namespace

int64_t default_work(SplitKind kind) {
  return kind == SplitKind::any ? 10 * kSecond : 15 * kSecond;
}

SearchResult search_split(const CostGraph& graph, const SearchOptions& options) {
  const std::vector<int> order = structural_order(graph);
  const CostGraph canonical = reordered(graph, order);
  SearchResult result = Search(canonical, options).run();
  if (result.device_of_node.empty()) return result;
  const std::vector<int> found = std::exchange(result.device_of_node, std::vector<int>(order.size()));
  for (size_t i = 0; i < order.size(); ++i) result.device_of_node[static_cast<size_t>(order[i])] = found[i];
  return result;
}

}  // namespace mpc::place
