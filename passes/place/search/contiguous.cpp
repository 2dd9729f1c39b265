#include "passes/place/search/contiguous.h"

#include <algorithm>
#include <utility>

#include "compiler/base/error.h"
#include "passes/place/search/ideals.h"
#include "passes/place/search/stage_load.h"

namespace mpc::place {
namespace {

constexpr int kBuckets = 1000;
constexpr int kFewBlocks = 1500;  // up to here every position may be a cut from the start
constexpr int kRandomShare = 4;   // one pick in so many is random
constexpr int kManyOrders = 4;
constexpr int64_t kMostPairs = 2'000'000;  // of positions: so many stages of one order are looked at at once
constexpr int kMostWindows = 4;
constexpr int kWindow = 4;  // buckets that a cut may move to either side
constexpr int kTransferOrders = 4;
// Of the slack, tried from nothing on. The seconds of a split count with their fourth power: half the transfers are
// worth a fifth more time, and a hundredth more time needs a twenty-fifth less.
constexpr double kSlackShares[] = {0, 0.0625, 0.125, 0.25, 0.5, 1};
constexpr int kPatience = 40;        // rounds without a better split before the search begins elsewhere
constexpr int64_t kOrderUnits = 60;  // to make an order, per block

class ContiguousSearch {
 public:
  ContiguousSearch(const Instance& instance, const ContiguousOptions& options, Random& random, Work& work)
      : instance_(instance),
        options_(options),
        random_(random),
        work_(work),
        sets_(options.device_order.empty() ? DeviceSets(instance) : DeviceSets(instance, options.device_order)),
        least_(work_bound(instance)) {
    sets_.limit(options.least_devices, options.most_devices);
    sets_.set_microbatches(options.microbatches, options.held);
  }

  ContiguousSplit run() {
    if (least_ == kForbidden) return {{}, true, "work bound"};
    const bool is_few = instance_.blocks <= kFewBlocks;
    first_orders(is_few);
    if (options_.most_ideals > 0 && instance_.kinds.size() <= kFewKinds) try_exactly();
    if (!result_.is_optimal) search_orders(is_few);
    if (result_.split.value <= least_) result_.is_optimal = true;
    if (options_.transfer_slack >= 0 && !result_.split.device_of_block.empty()) save_transfers();
    return std::move(result_);
  }

 private:
  std::vector<int> order_of(int round) {
    if (round == 2) return breadth_first_order(instance_);
    return depth_first_order(instance_, {}, round < 2 ? 0 : kRandomShare, round % 2 == 0, random_);
  }

  void first_orders(bool is_few) {
    const int rounds = is_few ? options_.orders : instance_.blocks <= 10 * kFewBlocks ? kManyOrders : 2;
    for (int round = 0; round < rounds && !work_.is_over(); ++round) {
      const std::vector<int> order = order_of(round);
      const int before = improvements_;
      if (is_few) {
        take(split(order, std::vector<char>(order.size() + 1, 1)), "linear order");
        continue;
      }
      take(split(order, bucket_cuts(instance_, sets_, order, kBuckets)), "buckets of a linear order");
      if (improvements_ != before) best_order_ = order;
    }
    if (!is_few && !best_order_.empty()) refine_cuts(best_order_);
  }

  std::optional<Split> split(const std::vector<int>& order, const std::vector<char>& cuts) {
    const double best = result_.split.value;
    // Just above the best, so that another split of the same value is found too.
    if (best < kForbidden) return split_linear(instance_, sets_, order, cuts, best * (1 + 1e-9), work_);
    // Where no split of an order fits, whatever its value, another order hardly has one either: that is asked first.
    std::optional<Split> found = nothing_fits_ ? split_linear(instance_, sets_, order, cuts, most_load(), work_)
                                               : split_linear_any(instance_, sets_, order, cuts, least_, work_);
    nothing_fits_ = !found;
    return found;
  }

  void take(std::optional<Split> split, const char* method) {
    if (!split) return;
    split->value = loads_of(instance_, split->device_of_block).largest;
    if (split->value > result_.split.value) return;
    if (split->value < result_.split.value) {
      ++improvements_;
      result_.method = method;
    }
    result_.split = *std::move(split);
  }

  /// Splits with fewer seconds of transfers, first among those of the best value, then among slower ones: a slower one
  /// is taken when it saves more than it costs (kSlackShares).
  void save_transfers() {
    const double value = result_.split.value;
    const bool seconds_count = options_.transfer_slack < kForbidden;
    Split best;
    double best_transfers = kForbidden;
    for (const double share : kSlackShares) {
      const double slack = seconds_count ? share * options_.transfer_slack : kForbidden;
      Split found = with_fewest_transfers(value * (1 + slack) * (1 + 1e-9));
      if (found.device_of_block.empty()) continue;
      const double transfers = std::exchange(found.value, loads_of(instance_, found.device_of_block).largest);
      const bool is_better =
          best.device_of_block.empty() || weighed(found.value, transfers) < weighed(best.value, best_transfers);
      if (is_better) {
        best = std::move(found);
        best_transfers = transfers;
      }
      if (!seconds_count || options_.transfer_slack == 0) break;
    }
    if (best.device_of_block.empty()) return;
    result_.is_optimal = result_.is_optimal && best.value <= value * (1 + 1e-9);
    result_.split = std::move(best);
  }

  static double weighed(double value, double transfers) { return value * value * value * value * transfers; }

  /// Orders within the stages found: the split is among those of each, so the best one pays no more for transfers.
  /// @return a split whose value is the seconds of its transfers.
  Split with_fewest_transfers(double bound) {
    Split best;
    for (int round = 0; round < kTransferOrders; ++round) {
      const std::vector<int> order =
          depth_first_order(instance_, stage_of_block(), round < 2 ? 0 : kRandomShare, round % 2 == 0, random_);
      auto found =
          split_linear(instance_, sets_, order, std::vector<char>(order.size() + 1, 1), bound, work_, Least::transfers);
      if (found && found->value < best.value) best = *std::move(found);
    }
    return best;
  }

  /// About how many pairs of positions begin and end a stage in splits of one order that are below `value`: of k * e
  /// ends, where the value is within e of what all devices can just do.
  int64_t pairs_near(double value) const {
    const double devices = instance_.devices(), blocks = instance_.blocks;
    const double share = std::min(1.0, devices * (value / least_ - 1));
    return static_cast<int64_t>(blocks * share * blocks / devices);
  }

  /// Lets the cuts move to any position in a window around where they are.
  void refine_cuts(const std::vector<int>& order) {
    if (pairs_near(result_.split.value) <= kMostPairs) {
      const int before = improvements_;
      take(split(order, std::vector<char>(order.size() + 1, 1)), "linear order");
      if (improvements_ != before) return;
    }
    const int width = std::max(8, kWindow * instance_.blocks / kBuckets);
    for (int round = 0; round < kMostWindows && !work_.is_over(); ++round) {
      std::vector<char> cuts(order.size() + 1, 0);
      const std::vector<int>& device = result_.split.device_of_block;
      for (size_t i = 1; i < order.size(); ++i) {
        if (device[static_cast<size_t>(order[i])] == device[static_cast<size_t>(order[i - 1])]) continue;
        const size_t first = i > static_cast<size_t>(width) ? i - static_cast<size_t>(width) : 1;
        std::fill(cuts.begin() + static_cast<std::ptrdiff_t>(first),
                  cuts.begin() + static_cast<std::ptrdiff_t>(std::min(order.size(), i + static_cast<size_t>(width))),
                  1);
      }
      const int before = improvements_;
      take(split(order, cuts), "linear order");
      if (improvements_ == before) return;
    }
  }

  void try_exactly() {
    Work share(std::min(options_.exact_work, work_.left()));
    const int64_t units = share.left();
    const double bound = result_.split.value < kForbidden ? result_.split.value * (1 - 1e-12) : most_load();
    IdealsResult exact = split_ideals(instance_, sets_, least_, bound, options_.most_ideals, share);
    work_.spend(units - share.left());
    take(std::move(exact.split), "ideals");
    if (exact.end != IdealsEnd::done) return;
    result_.is_optimal = true;
    result_.method = "ideals";
  }

  /// What no device's load exceeds.
  double most_load() const {
    double most = 1;
    for (const double cost : instance_.cost) most += cost;
    for (const DeviceKind& kind : instance_.kinds) {
      for (const double time : kind.time) most += time == kForbidden ? 0 : time;
    }
    return most;
  }

  void search_orders(bool is_few) {
    int64_t left = std::min(options_.search_work, work_.left());
    Split best = result_.split;
    int rounds_without = 0;
    for (int round = 0; left > 0 && !work_.is_over(); ++round) {
      const int64_t before = work_.left();
      const int improved = improvements_;
      search_once(round, is_few);
      work_.spend(kOrderUnits * instance_.blocks);
      left -= before - work_.left();
      rounds_without = improvements_ == improved ? rounds_without + 1 : 0;
      if (result_.split.value <= best.value) best = result_.split;
      if (is_few && rounds_without >= kPatience) {  // nothing better is near: begin elsewhere
        result_.split = {};
        rounds_without = 0;
      }
    }
    result_.split = std::move(best);
  }

  /// Of the best split; empty when there is none.
  std::vector<int> stage_of_block() const {
    const std::vector<int>& device = result_.split.device_of_block;
    if (device.empty()) return {};
    const std::vector<int> stage = stages_of(instance_, device);
    std::vector<int> result;
    for (const int d : device) result.push_back(stage[static_cast<size_t>(d)]);
    return result;
  }

  void search_once(int round, bool is_few) {
    const std::vector<int>& device = result_.split.device_of_block;
    const std::vector<int> order =
        depth_first_order(instance_, stage_of_block(), 2 + round % 6, round % 2 == 0, random_);
    if (is_few || device.empty())
      take(split(order, std::vector<char>(order.size() + 1, 1)), "search over orders");
    else
      refine_cuts(order);
  }

  const Instance& instance_;
  const ContiguousOptions& options_;
  Random& random_;
  Work& work_;
  DeviceSets sets_;
  double least_;
  ContiguousSplit result_;
  int improvements_ = 0;
  bool nothing_fits_ = false;  // of the last order
  std::vector<int> best_order_;
};

}  // namespace

std::vector<int> stages_of(const Instance& instance, const std::vector<int>& device_of_block) {
  const size_t devices = static_cast<size_t>(instance.devices());
  std::vector<std::vector<int>> later(devices);
  std::vector<int> earlier(devices, 0), stage(devices, -1), ready;
  std::vector<char> is_used(devices, 0);
  for (int block = 0; block < instance.blocks; ++block) {
    const size_t from = static_cast<size_t>(device_of_block[static_cast<size_t>(block)]);
    is_used[from] = 1;
    for (const int next : instance.after[block]) {
      const int to = device_of_block[static_cast<size_t>(next)];
      if (static_cast<size_t>(to) != from) later[from].push_back(to);
    }
  }
  for (std::vector<int>& list : later) {
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    for (const int device : list) ++earlier[static_cast<size_t>(device)];
  }
  for (size_t d = 0; d < devices; ++d) {
    if (is_used[d] != 0 && earlier[d] == 0) ready.push_back(static_cast<int>(d));
  }
  for (int next = 0; static_cast<size_t>(next) < ready.size(); ++next) {
    const size_t device = static_cast<size_t>(ready[static_cast<size_t>(next)]);
    stage[device] = next;
    for (const int other : later[device]) {
      if (--earlier[static_cast<size_t>(other)] == 0) ready.push_back(other);
    }
  }
  for (size_t d = 0; d < devices; ++d)
    MPC_CHECK(is_used[d] == 0 || stage[d] >= 0, "the stages of a contiguous split form a cycle");
  return stage;
}

ContiguousSplit split_contiguous(const Instance& instance, const ContiguousOptions& options, Random& random,
                                 Work& work) {
  return ContiguousSearch(instance, options, random, work).run();
}

}  // namespace mpc::place
