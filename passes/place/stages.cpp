#include "passes/place/stages.h"

#include <algorithm>
#include <numeric>

#include "passes/place/linked_stages.h"
#include "passes/place/search/contiguous.h"
#include "passes/place/stage_instance.h"

namespace mpc::place {
namespace {

constexpr uint64_t kSeed = 20;
constexpr int64_t kWork = 2'000'000'000;     // far more than the orders below need: a guard, not a budget
constexpr int64_t kExactWork = 20'000'000;   // 20 ms for a proof
constexpr int64_t kSearchWork = 25'000'000;  // 25 ms for better orders, where there is no proof
constexpr int kMostIdeals = 20'000;
constexpr int kIdealUnits = 150;         // to list one, beside a unit for each block
constexpr int64_t kMostStates = 5'000;   // sets of devices; beyond, stages take the devices in the cluster's order
constexpr int64_t kOrderBlocks = 6'000;  // (order, block) to begin with
constexpr int kLeastOrders = 4;
constexpr int kMostOrders = 40;

int64_t states_of(const Instance& instance) {
  int64_t states = 1;
  for (const DeviceKind& kind : instance.kinds) states = std::min<int64_t>(states * (kind.count + 1), kMostStates + 1);
  return states;
}

/// The order that is asked for, or the cluster's.
std::vector<int> order_of_stages(const Problem& problem) {
  if (!problem.device_order.empty()) return problem.device_order;
  std::vector<int> order(static_cast<size_t>(problem.device_count));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

}  // namespace

std::optional<Stages> split_in_stages(const Problem& problem, const StageOptions& options) {
  const bool are_links_equal = has_equal_links(*problem.cluster);
  if (!are_links_equal && !problem.is_of_parts) return split_over_links(problem, options);
  const StageInstance stages(problem, Alike::in_cost, Pricing::middle_link, options.obeys_capacities);
  const Instance& instance = stages.instance();
  ContiguousOptions search;
  search.orders =
      static_cast<int>(std::clamp<int64_t>(kOrderBlocks / std::max(1, instance.blocks), kLeastOrders, kMostOrders));
  search.microbatches = problem.microbatches;
  search.held = problem.held;
  search.transfer_slack = options.transfer_slack;
  if (!problem.device_order.empty() || states_of(instance) > kMostStates)
    search.device_order = stages.numbers_of(order_of_stages(problem));
  Random random(kSeed);
  Work work(kWork);
  if (!options.uses_all_devices) {
    // One device more each time, until some hold the model; seconds do not count, traffic does.
    search.transfer_slack = kForbidden;
    for (search.most_devices = 1; search.most_devices <= problem.device_count; ++search.most_devices) {
      const ContiguousSplit found = split_contiguous(instance, search, random, work);
      if (!found.split.device_of_block.empty())
        return Stages{stages.device_of_block(found.split.device_of_block), work_bound(instance)};
    }
    return std::nullopt;
  }
  if (!options.is_quick) {
    // Half of the work lists the ideals, so that the other half is left for the walk.
    search.most_ideals = std::min<int>(kMostIdeals, static_cast<int>(kExactWork / 2 / (kIdealUnits + instance.blocks)));
    search.exact_work = kExactWork;
    search.search_work = kSearchWork;
  }
  const int most = std::min(problem.device_count, instance.blocks);
  for (const int least : {most, 0}) {  // pins or capacities may leave some device nothing
    search.least_devices = least;
    const ContiguousSplit found = split_contiguous(instance, search, random, work);
    if (found.split.device_of_block.empty()) continue;
    Stages result{stages.device_of_block(found.split.device_of_block), work_bound(instance)};
    if (found.is_optimal && are_links_equal) result.lower_bound = std::max(result.lower_bound, found.split.value);
    return result;
  }
  return std::nullopt;
}

}  // namespace mpc::place
