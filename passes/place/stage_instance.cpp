#include "passes/place/stage_instance.h"

#include <algorithm>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "passes/place/search/contract.h"
#include "passes/place/search/linear.h"

namespace mpc::place {
namespace {

bool is_as_good(const Link& a, const Link& b) {
  return a.bytes_per_second >= b.bytes_per_second && a.latency_s <= b.latency_s;
}

bool are_equal(const Link& a, const Link& b) {
  return a.bytes_per_second == b.bytes_per_second && a.latency_s == b.latency_s;
}

/// Would nothing change if the two devices changed places? (Of three devices of which this holds for two pairs it
/// holds for the third, so the first of a kind can stand for all.)
bool can_change_places(const Cluster& cluster, int a, int b) {
  const auto link = [&](int from, int to) -> const Link& { return cluster.link(DeviceId(from), DeviceId(to)); };
  if (!are_equal(link(a, b), link(b, a))) return false;
  for (int other = 0; other < cluster.count(); ++other) {
    if (other == a || other == b) continue;
    if (!are_equal(link(a, other), link(b, other)) || !are_equal(link(other, a), link(other, b))) return false;
  }
  return true;
}

/// The links that no other one is at least as good as, in bytes per second and in latency. Empty for one device.
std::vector<Link> best_links(const Cluster& cluster) {
  std::vector<Link> best;
  for (int from = 0; from < cluster.count(); ++from) {
    for (int to = 0; to < cluster.count(); ++to) {
      if (from == to) continue;
      const Link& link = cluster.link(DeviceId(from), DeviceId(to));
      if (std::ranges::any_of(best, [&](const Link& other) { return is_as_good(other, link); })) continue;
      std::erase_if(best, [&](const Link& other) { return is_as_good(link, other); });
      best.push_back(link);
    }
  }
  return best;
}

/// The link in the middle, by bytes per second, of those from each device to the next.
std::vector<Link> middle_link(const Cluster& cluster) {
  std::vector<Link> links;
  for (int d = 0; d + 1 < cluster.count(); ++d) links.push_back(cluster.link(DeviceId(d), DeviceId(d + 1)));
  std::ranges::stable_sort(links, {}, &Link::bytes_per_second);
  if (links.empty()) return {};
  return {links[links.size() / 2]};
}

using Pair = std::pair<int, int>;

Rows rows_of(std::vector<Pair> pairs, int rows) {
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

}  // namespace

std::vector<std::vector<int>> kinds_of_devices(const Problem& problem, Alike alike) {
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
             problem.seconds[first] == problem.seconds[d] &&
             (alike == Alike::in_cost || can_change_places(*problem.cluster, kind.front(), device));
    };
    const auto found = std::ranges::find_if(kinds, is_like);
    if (found == kinds.end()) {
      kinds.push_back({device});
    } else {
      found->push_back(device);
    }
  }
  return kinds;
}

bool has_equal_links(const Cluster& cluster) {
  const Link* first = nullptr;
  for (int from = 0; from < cluster.count(); ++from) {
    for (int to = 0; to < cluster.count(); ++to) {
      if (from == to) continue;
      const Link& link = cluster.link(DeviceId(from), DeviceId(to));
      if (first == nullptr) first = &link;
      if (!are_equal(*first, link)) return false;
    }
  }
  return true;
}

StageInstance::StageInstance(const Problem& problem, Alike alike, Pricing pricing, bool obeys_capacities)
    : problem_(problem) {
  const std::vector<std::vector<int>> kinds = kinds_of_devices(problem, alike);
  if (kinds.size() > kMostKinds) {
    throw Error(ErrorId::M051, "devices",
                fmt::format("there are {} kinds of them (by speed, memory and pins), the most is {}", kinds.size(),
                            kMostKinds));
  }
  for (const std::vector<int>& kind : kinds) devices_.insert(devices_.end(), kind.begin(), kind.end());
  join_blocks();
  add_kinds(kinds, obeys_capacities);
  add_memory();
  add_tensors(pricing == Pricing::best_link ? best_links(*problem.cluster) : middle_link(*problem.cluster));
  instance_.overlaps_transfers = problem.overlaps_transfers;
}

std::vector<int> StageInstance::numbers_of(const std::vector<int>& devices) const {
  std::vector<int> number(devices_.size());
  for (size_t i = 0; i < devices_.size(); ++i) number[static_cast<size_t>(devices_[i])] = static_cast<int>(i);
  std::vector<int> order;
  for (const int device : devices) order.push_back(number[static_cast<size_t>(device)]);
  return order;
}

std::vector<int> StageInstance::device_of_block(const std::vector<int>& device_of_group) const {
  std::vector<int> device(group_of_block_.size());
  for (size_t b = 0; b < device.size(); ++b)
    device[b] = devices_[static_cast<size_t>(device_of_group[static_cast<size_t>(group_of_block_[b])])];
  return device;
}

/// Pairs (a, b) of groups: a computes for b within a micro-batch. Weights that several groups read give no order.
std::vector<Pair> StageInstance::order_of_groups() const {
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

void StageInstance::join_blocks() {
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

void StageInstance::add_kinds(const std::vector<std::vector<int>>& kinds, bool obeys_capacities) {
  for (const std::vector<int>& devices : kinds) {
    const auto first = static_cast<size_t>(devices.front());
    DeviceKind kind;
    kind.count = static_cast<int>(devices.size());
    kind.memory = obeys_capacities ? static_cast<double>(problem_.capacity_bytes[first]) : kForbidden;
    kind.time.assign(static_cast<size_t>(instance_.blocks), 0);
    for (size_t b = 0; b < group_of_block_.size(); ++b) {
      const int pin = problem_.pinned[b];
      const bool is_elsewhere = pin >= 0 && std::ranges::find(devices, pin) == devices.end();
      kind.time[static_cast<size_t>(group_of_block_[b])] += is_elsewhere ? kForbidden : problem_.seconds[first][b];
    }
    instance_.kinds.push_back(std::move(kind));
  }
}

void StageInstance::add_memory() {
  const auto groups = static_cast<size_t>(instance_.blocks);
  instance_.memory.assign(groups, 0);
  instance_.kept.assign(groups, 0);
  instance_.kept_for_weights.assign(groups, 0);
  instance_.working.assign(groups, 0);
  for (size_t b = 0; b < group_of_block_.size(); ++b) {
    const auto group = static_cast<size_t>(group_of_block_[b]);
    instance_.memory[group] += static_cast<double>(problem_.persistent_bytes[b]);
    if (problem_.is_training) {
      instance_.kept[group] += static_cast<double>(problem_.kept_bytes[b] + problem_.input_bytes[b]);
      instance_.kept_for_weights[group] += static_cast<double>(problem_.kept_for_weights_bytes[b]);
    }
    instance_.working[group] = std::max(instance_.working[group], static_cast<double>(problem_.working_bytes[b]));
  }
}

void StageInstance::add_tensors(const std::vector<Link>& links) {
  std::vector<Pair> produced;
  std::vector<Pair> consumed;
  for (size_t t = 0; t < problem_.tensors.size(); ++t) {
    const Tensor& tensor = problem_.tensors[t];
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
    double least_s = links.empty() ? 0 : kForbidden;
    for (const Link& there : links) {
      for (const Link& back : links) least_s = std::min(least_s, move_seconds(tensor, there, back));
    }
    instance_.cost.push_back(least_s);
    instance_.producer.push_back(producer);
    instance_.consumers.items.insert(instance_.consumers.items.end(), consumers.begin(), consumers.end());
    instance_.consumers.end_row();
    instance_.received.push_back(problem_.is_training ? static_cast<double>(tensor.in_flight_bytes) : 0);
    instance_.copied.push_back(static_cast<double>(tensor.copied_bytes));
    tensors_.push_back(static_cast<int>(t));
  }
  instance_.produced = rows_of(std::move(produced), instance_.blocks);
  instance_.consumed = rows_of(std::move(consumed), instance_.blocks);
}

}  // namespace mpc::place
