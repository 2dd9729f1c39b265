#include "passes/place/linked_stages.h"

#include <algorithm>
#include <numeric>

#include "passes/place/linked_split.h"
#include "passes/place/search/contiguous.h"
#include "passes/place/stage_anneal.h"
#include "passes/place/stage_instance.h"
#include "passes/place/stage_moves.h"

namespace mpc::place {
namespace {

constexpr uint64_t kSeed = 20;
constexpr int64_t kWork = 2'000'000'000;     // a guard, not a budget
constexpr int64_t kExactWork = 20'000'000;   // for the bound
constexpr int64_t kSearchWork = 40'000'000;  // for orders of blocks
constexpr int64_t kQuickWork = 4'000'000;
constexpr int kMostIdeals = 20'000;
constexpr int kMostOrders = 40;
constexpr int kLeastOrders = 2;
constexpr int kTransferOrders = 4;
constexpr int kRandomShare = 4;   // one pick in so many is random
constexpr int kFewBlocks = 1500;  // up to here every position may be a cut
constexpr int kBuckets = 1000;
constexpr size_t kMostSteps = 1500;          // of routes in any order
constexpr int64_t kMostStates = 5'000;       // sets of devices in them
constexpr size_t kKept = 4;                  // splits that are improved
constexpr int64_t kImproveWork = 5'000'000;  // blocks and tensors that evaluations look at, for each way to improve one
constexpr int kMostEvaluations = 10'000;
constexpr int kAnnealings = 4;
constexpr double kNear = 1.02;  // the program's value is not quite the split's: what is near it is kept
constexpr double kRounding = 1e-9;
// Shares of the slack, as in search/contiguous.cpp: less balance for fewer transfers.
constexpr double kSlackShares[] = {0, 0.0625, 0.125, 0.25, 0.5, 1};

/// The instance without costs, and what they are made of.
LinkedInstance linked_instance(const Problem& problem, const StageInstance& stages) {
  LinkedInstance linked{stages.instance(), {}};
  for (const int t : stages.tensors()) {
    const Tensor& tensor = problem.tensors[static_cast<size_t>(t)];
    linked.moves.push_back({tensor.forward_bytes > 0 ? 1.0 : 0.0, static_cast<double>(tensor.forward_bytes),
                            tensor.backward_bytes > 0 ? 1.0 : 0.0, static_cast<double>(tensor.backward_bytes)});
  }
  std::ranges::fill(linked.instance.cost, 0);
  return linked;
}

/// Bytes of a usual cut: the mean over the places in the order of blocks.
double usual_bytes(const LinkedInstance& linked) {
  double sum = 0;
  for (int t = 0; t < linked.instance.tensors(); ++t) {
    const TensorMove& move = linked.moves[static_cast<size_t>(t)];
    const int producer = linked.instance.producer[static_cast<size_t>(t)];
    const int last = std::max(producer, linked.instance.consumers[t].back());
    sum += (move.bytes + move.back_bytes) * (last - std::min(producer, linked.instance.consumers[t].front()));
  }
  return sum / std::max(1, linked.instance.blocks);
}

bool has_few_states(const std::vector<std::vector<int>>& kinds) {
  int64_t states = 1;
  for (const std::vector<int>& kind : kinds)
    states = std::min<int64_t>(states * (static_cast<int64_t>(kind.size()) + 1), kMostStates + 1);
  return kinds.size() <= kMostKinds && states <= kMostStates;
}

/// Where the dynamic program may put stages one after another.
struct Ground {
  DeviceSets sets;
  Routes routes;
};

/// A split with what it is worth.
struct Valued {
  std::vector<int> device_of_group;  // of the problem; empty: none
  double load_s = kForbidden;
  double transfer_s = kForbidden;
  auto order() const { return std::pair(load_s, transfer_s); }
};

class LinkedSearch {
 public:
  LinkedSearch(const Problem& problem, const StageOptions& options)
      : problem_(problem),
        options_(options),
        stages_(problem, alike(problem), Pricing::best_link, options.obeys_capacities),
        linked_(linked_instance(problem, stages_)),
        random_(kSeed),
        work_(kWork) {
    add_grounds();
  }

  std::optional<Stages> run() {
    if (!options_.uses_all_devices) return with_fewest_devices();
    const int most = std::min(problem_.device_count, stages_.instance().blocks);
    for (const int least : {most, 0}) {  // pins or capacities may leave some device nothing
      least_devices_ = least;
      const double bound_s = find_bound();
      search_orders(bound_s);
      if (pool_.empty()) continue;
      if (!options_.is_quick) improve(bound_s);
      Valued best = with_fewer_transfers(pool_.front());
      return Stages{device_of_block(best.device_of_group), bound_s};
    }
    return std::nullopt;
  }

 private:
  /// Devices whose links differ are kinds of their own as long as every order of the kinds can be looked at.
  static Alike alike(const Problem& problem) {
    return has_few_states(kinds_of_devices(problem, Alike::in_cost_and_links)) ? Alike::in_cost_and_links
                                                                               : Alike::in_cost;
  }

  void add_grounds() {
    const Cluster& cluster = *problem_.cluster;
    const Instance& instance = linked_.instance;
    if (!problem_.device_order.empty()) {
      add_ground(problem_.device_order);
      set_microbatches();
      return;
    }
    if (alike(problem_) == Alike::in_cost_and_links) {
      DeviceSets sets(instance);
      Routes routes = routes_in_any_order(cluster, instance, sets, stages_.devices(), kMostSteps);
      if (!routes.ways.empty()) {
        grounds_.push_back({std::move(sets), std::move(routes)});
        set_microbatches();
        return;
      }
    }
    std::vector<int> order = order_of_least_seconds(cluster, usual_bytes(linked_));
    for (int direction = 0; direction < 2; ++direction) {
      add_ground(order);
      std::ranges::reverse(order);
    }
    set_microbatches();
  }

  void add_ground(const std::vector<int>& order) {
    const Instance& instance = linked_.instance;
    grounds_.push_back({DeviceSets(instance, stages_.numbers_of(order)),
                        routes_in_order(*problem_.cluster, instance, stages_.devices(), order)});
  }

  void set_microbatches() {
    for (Ground& ground : grounds_) ground.sets.set_microbatches(problem_.microbatches, problem_.held);
  }

  /// The least largest load of a split if every tensor took the link that is best for it. Such a split is a first one.
  double find_bound() {
    const StageInstance relaxed(problem_, Alike::in_cost, Pricing::best_link, options_.obeys_capacities);
    ContiguousOptions search;
    search.orders = number_of_orders();
    search.microbatches = problem_.microbatches;
    search.held = problem_.held;
    search.least_devices = least_devices_;
    if (!problem_.device_order.empty()) search.device_order = relaxed.numbers_of(problem_.device_order);
    if (!options_.is_quick) {
      search.most_ideals = kMostIdeals;
      search.exact_work = kExactWork;
    }
    Work work(kSearchWork);
    const ContiguousSplit found = split_contiguous(relaxed.instance(), search, random_, work);
    const double bound_s = work_bound(relaxed.instance());
    if (found.split.device_of_block.empty()) return bound_s;
    std::vector<int> device;
    for (const int number : found.split.device_of_block)
      device.push_back(relaxed.devices()[static_cast<size_t>(number)]);
    take(std::move(device));
    return found.is_optimal ? std::max(bound_s, found.split.value) : bound_s;
  }

  int number_of_orders() const {
    constexpr int kOrderBlocks = 6'000;
    return std::clamp(kOrderBlocks / std::max(1, stages_.instance().blocks), kLeastOrders, kMostOrders);
  }

  std::vector<char> cuts_of(const std::vector<int>& order, const DeviceSets& sets) const {
    if (order.size() <= static_cast<size_t>(kFewBlocks)) return std::vector<char>(order.size() + 1, 1);
    return bucket_cuts(stages_.instance(), sets, order, kBuckets);
  }

  /// First in any order of blocks, then in orders within the stages of the best split.
  void search_orders(double least_s) {
    const int64_t end = work_.left() - (options_.is_quick ? kQuickWork : kSearchWork);
    double best_s = kForbidden;  // of the program
    const int first_rounds = number_of_orders();
    for (int round = 0; round < 4 * first_rounds; ++round) {
      if (round >= kLeastOrders && work_.left() < end) break;
      const bool is_free = round < first_rounds || pool_.empty();
      const int one_in_random = round < 2 ? 0 : kRandomShare;
      const std::vector<int> order = depth_first_order(
          stages_.instance(), is_free ? std::vector<int>{} : stage_of_group(pool_.front().device_of_group),
          one_in_random, round % 2 == 0, random_);
      for (Ground& ground : grounds_) {
        ground.sets.limit(least_devices_, problem_.device_count);
        std::optional<Split> split = best_s < kForbidden ? split_at(ground, order, best_s * kNear, Least::largest_load)
                                                         : split_at_any(ground, order, least_s);
        if (!split) continue;
        best_s = std::min(best_s, split->value);
        take(devices_of(*split));
      }
    }
  }

  std::optional<Split> split_at(Ground& ground, const std::vector<int>& order, double bound_s, Least least) {
    ground.sets.set_bound(bound_s);
    return split_linked(linked_, ground.sets, ground.routes, order, cuts_of(order, ground.sets), bound_s, work_, least);
  }

  std::optional<Split> split_at_any(Ground& ground, const std::vector<int>& order, double least_s) {
    const double most_s = most_load();
    for (double excess = 0.02;; excess *= 3) {
      const double bound_s = std::max(least_s, most_s * 1e-6) * (1 + excess);
      std::optional<Split> split = split_at(ground, order, bound_s, Least::largest_load);
      if (split || bound_s > most_s || work_.is_over()) return split;
    }
  }

  /// What no device's load exceeds.
  double most_load() const {
    double most_s = 1;
    for (const DeviceKind& kind : linked_.instance.kinds) {
      for (const double time : kind.time) most_s += time == kForbidden ? 0 : time;
    }
    for (const Link& link : problem_.cluster->links) {
      if (link.bytes_per_second <= 0) continue;  // of a device to itself
      for (const TensorMove& move : linked_.moves)
        most_s += 4 * link.latency_s + 2 * (move.bytes + move.back_bytes) / link.bytes_per_second;
    }
    return most_s;
  }

  std::vector<int> devices_of(const Split& split) const {
    std::vector<int> device;
    for (const int number : split.device_of_block) device.push_back(stages_.devices()[static_cast<size_t>(number)]);
    return device;
  }

  std::vector<int> device_of_block(const std::vector<int>& device_of_group) const {
    return stages_.device_of_block(stages_.numbers_of(device_of_group));
  }

  std::vector<int> stage_of_group(const std::vector<int>& device_of_group) const {
    const std::vector<int> number = stages_.numbers_of(device_of_group);
    const std::vector<int> stage = stages_of(stages_.instance(), number);
    std::vector<int> result;
    for (const int n : number) result.push_back(stage[static_cast<size_t>(n)]);
    return result;
  }

  Valued valued(std::vector<int> device_of_group) const {
    const Evaluation value = evaluate(problem_, device_of_block(device_of_group));
    if (options_.obeys_capacities && value.overflow_bytes > 0) return {};
    return {std::move(device_of_group), value.largest_load_s, value.transfer_s};
  }

  /// Keeps the split if it is among the best.
  void take(std::vector<int> device_of_group) {
    Valued split = valued(std::move(device_of_group));
    if (split.device_of_group.empty()) return;
    const auto place = std::ranges::upper_bound(pool_, split.order(), {}, &Valued::order);
    const bool is_known = place != pool_.begin() && std::prev(place)->device_of_group == split.device_of_group;
    if (is_known) return;
    pool_.insert(place, std::move(split));
    if (pool_.size() > kKept) pool_.pop_back();
  }

  void improve(double bound_s) {
    const auto once = static_cast<int64_t>(problem_.pinned.size() + problem_.tensors.size());
    const int evaluations = static_cast<int>(std::min<int64_t>(kMostEvaluations, kImproveWork / once));
    const std::vector<Valued> found = pool_;
    for (const Valued& split : found)
      take(improve_stages(problem_, stages_, split.device_of_group, least_devices_, options_.obeys_capacities,
                          evaluations));
    for (int round = 0; round < kAnnealings && pool_.front().load_s > bound_s * (1 + kRounding); ++round) {
      take(anneal_stages(
          problem_, stages_, found[static_cast<size_t>(round) % found.size()].device_of_group,
          {.least_devices = least_devices_, .obeys_capacities = options_.obeys_capacities, .evaluations = evaluations},
          random_));
    }
  }

  /// Of the splits about as good as `best`, the one with the fewest seconds of transfers; one that is slower, by up to
  /// the slack, only where it saves much.
  Valued with_fewer_transfers(const Valued& best) {
    const auto weighed = [](const Valued& v) { return v.load_s * v.load_s * v.load_s * v.load_s * v.transfer_s; };
    Valued result = best;
    for (const double share : kSlackShares) {
      const double most_s = best.load_s * (1 + share * options_.transfer_slack) * (1 + kRounding);
      for (int round = 0; round < kTransferOrders; ++round) {
        const std::vector<int> order = depth_first_order(stages_.instance(), stage_of_group(best.device_of_group),
                                                         round < 2 ? 0 : kRandomShare, round % 2 == 0, random_);
        for (Ground& ground : grounds_) {
          const std::optional<Split> split = split_at(ground, order, most_s, Least::transfers);
          if (!split) continue;
          Valued found = valued(devices_of(*split));
          if (found.load_s <= most_s && weighed(found) < weighed(result)) result = std::move(found);
        }
      }
      if (options_.transfer_slack == 0) break;
    }
    return result;
  }

  /// One device more each time, until some hold the model; seconds of work do not count, those of transfers do.
  std::optional<Stages> with_fewest_devices() {
    const double most_s = most_load();
    for (int devices = 1; devices <= problem_.device_count; ++devices) {
      Valued best;
      for (int round = 0; round < number_of_orders(); ++round) {
        const std::vector<int> order =
            depth_first_order(stages_.instance(), {}, round < 2 ? 0 : kRandomShare, round % 2 == 0, random_);
        for (Ground& ground : grounds_) {
          ground.sets.limit(0, devices);
          const std::optional<Split> split = split_at(ground, order, most_s, Least::transfers);
          if (!split) continue;
          Valued found = valued(devices_of(*split));
          if (found.transfer_s < best.transfer_s) best = std::move(found);
        }
      }
      if (!best.device_of_group.empty())
        return Stages{device_of_block(best.device_of_group), work_bound(stages_.instance())};
    }
    return std::nullopt;
  }

  const Problem& problem_;
  const StageOptions& options_;
  StageInstance stages_;
  LinkedInstance linked_;
  Random random_;
  Work work_;
  std::vector<Ground> grounds_;
  int least_devices_ = 0;
  std::vector<Valued> pool_;  // best first
};

}  // namespace

std::optional<Stages> split_over_links(const Problem& problem, const StageOptions& options) {
  return LinkedSearch(problem, options).run();
}

}  // namespace mpc::place
