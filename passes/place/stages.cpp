#include "passes/place/stages.h"

#include <algorithm>
#include <numeric>
#include <queue>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "passes/place/search/contiguous.h"
#include "passes/place/search/contract.h"

namespace mpc::place {
namespace {

constexpr uint64_t kSeed = 20;
constexpr int64_t kWork = 2'000'000'000;     // far more than the orders below need: a guard, not a budget
constexpr int64_t kExactWork = 20'000'000;   // 20 ms for a proof
constexpr int64_t kSearchWork = 25'000'000;  // 25 ms for better orders, where there is no proof
constexpr int kMostIdeals = 20'000;
constexpr int64_t kMostStates = 5'000;   // sets of devices; beyond, stages take the devices in the cluster's order
constexpr int64_t kOrderBlocks = 6'000;  // (order, block) to begin with
constexpr int kLeastOrders = 4;
constexpr int kMostOrders = 40;

/// Devices on which every block costs and every byte fits alike, in the order of the first of each.
std::vector<std::vector<int>> kinds_of_devices(const Problem& problem) {
  std::vector<char> has_pins(static_cast<size_t>(problem.device_count), 0);
  for (const int device : problem.pinned) {
    if (device >= 0) has_pins[static_cast<size_t>(device)] = 1;
  }
  std::vector<std::vector<int>> kinds;
  for (int device = 0; device < problem.device_count; ++device) {
    const auto d = static_cast<size_t>(device);
    const auto is_like = [&](const std::vector<int>& kind) {
      const auto first = static_cast<size_t>(kind.front());
      return has_pins[d] == 0 && has_pins[first] == 0 && problem.capacity_bytes[first] == problem.capacity_bytes[d] &&
             problem.seconds[first] == problem.seconds[d];
    };
    const auto found = std::ranges::find_if(kinds, is_like);
    if (found == kinds.end()) {
      kinds.push_back({device});
    } else {
      found->push_back(device);
    }
  }
  if (kinds.size() > kMostKinds) {
    throw Error(ErrorId::M051, "devices",
                fmt::format("there are {} kinds of them (by speed, memory and pins), the most is {}", kinds.size(),
                            kMostKinds));
  }
  return kinds;
}

/// Makes the instance; a group is a block of it.
class StageInstance {
 public:
  StageInstance(const Problem& problem, bool obeys_capacities)
      : problem_(problem), obeys_capacities_(obeys_capacities), kinds_(kinds_of_devices(problem)) {
    for (const std::vector<int>& kind : kinds_) devices_.insert(devices_.end(), kind.begin(), kind.end());
    join_blocks();
    add_kinds();
    add_memory();
    add_tensors();
    instance_.overlaps_transfers = problem.overlaps_transfers;
  }

  const Instance& instance() const { return instance_; }
  bool has_equal_links() const { return has_equal_links_; }

  /// The instance's devices in the cluster's order.
  std::vector<int> device_order() const {
    std::vector<int> order(devices_.size());
    for (size_t i = 0; i < devices_.size(); ++i) order[static_cast<size_t>(devices_[i])] = static_cast<int>(i);
    return order;
  }

  std::vector<int> device_of_block(const Split& split) const {
    std::vector<int> device(group_of_block_.size());
    for (size_t b = 0; b < device.size(); ++b) {
      device[b] = devices_[static_cast<size_t>(split.device_of_block[static_cast<size_t>(group_of_block_[b])])];
    }
    return device;
  }

 private:
  using Pair = std::pair<int, int>;

  static Rows rows_of(std::vector<Pair> pairs, int rows) {
    std::ranges::sort(pairs);
    const auto last = std::ranges::unique(pairs);
    pairs.erase(last.begin(), last.end());
    Rows result;
    size_t next = 0;
    for (int row = 0; row < rows; ++row) {
      while (next < pairs.size() && pairs[next].first == row) result.items.push_back(pairs[next++].second);
      result.end_row();
    }
    return result;
  }

  /// Pairs (a, b) of groups: a computes for b within a micro-batch. Weights that several groups read give no order.
  std::vector<Pair> order_of_groups() const {
    std::vector<Pair> order;
    for (const Tensor& tensor : problem_.tensors) {
      if (tensor.is_parameter) continue;
      for (const int consumer : tensor.consumers) {
        const Pair pair(group_of_block_[static_cast<size_t>(tensor.producer)],
                        group_of_block_[static_cast<size_t>(consumer)]);
        if (pair.first != pair.second) order.push_back(pair);
      }
    }
    return order;
  }

  /// Followers with their leaders, and what stands on a cycle then.
  void join_blocks() {
    for (int b = 0; b < problem_.block_count; ++b) {
      int leader = b;
      while (problem_.follows[static_cast<size_t>(leader)] >= 0) leader = problem_.follows[static_cast<size_t>(leader)];
      group_of_block_.push_back(leader);
    }
    int groups = 0;
    const std::vector<int> component = strong_components(rows_of(order_of_groups(), problem_.block_count), &groups);
    std::vector<int> number(static_cast<size_t>(groups), -1);
    for (int& group : group_of_block_) {
      int& mine = number[static_cast<size_t>(component[static_cast<size_t>(group)])];
      if (mine < 0) mine = instance_.blocks++;
      group = mine;
    }
    std::vector<Pair> order = order_of_groups();
    instance_.after = rows_of(order, instance_.blocks);
    for (Pair& pair : order) std::swap(pair.first, pair.second);
    instance_.before = rows_of(std::move(order), instance_.blocks);
  }

  void add_kinds() {
    for (const std::vector<int>& devices : kinds_) {
      const auto first = static_cast<size_t>(devices.front());
      DeviceKind kind;
      kind.count = static_cast<int>(devices.size());
      kind.memory = obeys_capacities_ ? static_cast<double>(problem_.capacity_bytes[first]) : kForbidden;
      kind.time.assign(static_cast<size_t>(instance_.blocks), 0);
      for (size_t b = 0; b < group_of_block_.size(); ++b) {
        const int pin = problem_.pinned[b];
        const bool is_elsewhere = pin >= 0 && std::ranges::find(devices, pin) == devices.end();
        kind.time[static_cast<size_t>(group_of_block_[b])] += is_elsewhere ? kForbidden : problem_.seconds[first][b];
      }
      instance_.kinds.push_back(std::move(kind));
    }
  }

  void add_memory() {
    const auto groups = static_cast<size_t>(instance_.blocks);
    instance_.memory.assign(groups, 0);
    instance_.kept.assign(groups, 0);
    instance_.working.assign(groups, 0);
    for (size_t b = 0; b < group_of_block_.size(); ++b) {
      const auto group = static_cast<size_t>(group_of_block_[b]);
      instance_.memory[group] += static_cast<double>(problem_.persistent_bytes[b]);
      if (problem_.is_training) {
        instance_.kept[group] += static_cast<double>(problem_.kept_bytes[b] + problem_.input_bytes[b]);
      } else {
        instance_.working[group] = std::max(instance_.working[group], static_cast<double>(problem_.working_bytes[b]));
      }
    }
  }

  /// The link that tensors are priced at: the middle one of those from each device to the next. Links that differ are
  /// told apart when the split is evaluated, not while it is searched for.
  Pair priced_link() {
    std::vector<Pair> links;
    for (int d = 0; d + 1 < problem_.device_count; ++d) links.emplace_back(d, d + 1);
    if (links.empty()) return {0, 0};
    const auto link = [&](const Pair& ends) -> const Link& {
      return problem_.cluster->link(DeviceId(ends.first), DeviceId(ends.second));
    };
    std::ranges::stable_sort(links, {}, [&](const Pair& ends) { return link(ends).bytes_per_second; });
    const Pair middle = links[links.size() / 2];
    for (int a = 0; a < problem_.device_count; ++a) {
      for (int b = 0; b < problem_.device_count; ++b) {
        const bool is_equal = a == b || (link({a, b}).bytes_per_second == link(middle).bytes_per_second &&
                                         link({a, b}).latency_s == link(middle).latency_s);
        has_equal_links_ = has_equal_links_ && is_equal;
      }
    }
    return middle;
  }

  void add_tensors() {
    const auto [from, to] = priced_link();
    std::vector<Pair> produced;
    std::vector<Pair> consumed;
    for (const Tensor& tensor : problem_.tensors) {
      const int producer = group_of_block_[static_cast<size_t>(tensor.producer)];
      std::vector<int> consumers;
      for (const int consumer : tensor.consumers) {
        const int group = group_of_block_[static_cast<size_t>(consumer)];
        if (group != producer) consumers.push_back(group);
      }
      std::ranges::sort(consumers);
      const auto last = std::ranges::unique(consumers);
      consumers.erase(last.begin(), last.end());
      if (consumers.empty()) continue;
      produced.emplace_back(producer, instance_.tensors());
      for (const int consumer : consumers) consumed.emplace_back(consumer, instance_.tensors());
      instance_.cost.push_back(from == to ? 0 : problem_.move_seconds(tensor, from, to));
      instance_.producer.push_back(producer);
      instance_.consumers.items.insert(instance_.consumers.items.end(), consumers.begin(), consumers.end());
      instance_.consumers.end_row();
      instance_.received.push_back(problem_.is_training ? static_cast<double>(tensor.forward_bytes) : 0);
      instance_.copied.push_back(static_cast<double>(tensor.copied_bytes));
    }
    instance_.produced = rows_of(std::move(produced), instance_.blocks);
    instance_.consumed = rows_of(std::move(consumed), instance_.blocks);
  }

  const Problem& problem_;
  bool obeys_capacities_;
  std::vector<std::vector<int>> kinds_;
  std::vector<int> devices_;  // [device of the instance]: device of the problem
  std::vector<int> group_of_block_;
  Instance instance_;
  bool has_equal_links_ = true;
};

int64_t states_of(const Instance& instance) {
  int64_t states = 1;
  for (const DeviceKind& kind : instance.kinds) states = std::min<int64_t>(states * (kind.count + 1), kMostStates + 1);
  return states;
}

}  // namespace

std::optional<Stages> split_in_stages(const Problem& problem, const StageOptions& options) {
  const StageInstance stages(problem, options.obeys_capacities);
  const Instance& instance = stages.instance();
  ContiguousOptions search;
  search.orders =
      static_cast<int>(std::clamp<int64_t>(kOrderBlocks / std::max(1, instance.blocks), kLeastOrders, kMostOrders));
  search.microbatches = problem.microbatches;
  search.transfer_slack = options.transfer_slack;
  if (states_of(instance) > kMostStates) search.device_order = stages.device_order();
  Random random(kSeed);
  Work work(kWork);
  if (!options.uses_all_devices) {
    // One device more each time, until some hold the model; seconds do not count, traffic does.
    search.transfer_slack = kForbidden;
    for (search.most_devices = 1; search.most_devices <= problem.device_count; ++search.most_devices) {
      const ContiguousSplit found = split_contiguous(instance, search, random, work);
      if (!found.split.device_of_block.empty())
        return Stages{stages.device_of_block(found.split), work_bound(instance)};
    }
    return std::nullopt;
  }
  if (!options.is_quick) {
    search.most_ideals = kMostIdeals;
    search.exact_work = kExactWork;
    search.search_work = kSearchWork;
  }
  const int most = std::min(problem.device_count, instance.blocks);
  for (const int least : {most, 0}) {  // pins or capacities may leave some device nothing
    search.least_devices = least;
    const ContiguousSplit found = split_contiguous(instance, search, random, work);
    if (found.split.device_of_block.empty()) continue;
    Stages result{stages.device_of_block(found.split), work_bound(instance)};
    if (found.is_optimal && stages.has_equal_links())
      result.lower_bound = std::max(result.lower_bound, found.split.value);
    return result;
  }
  return std::nullopt;
}

}  // namespace mpc::place
