#include "passes/place/search/coarsen.h"

#include <algorithm>
#include <numeric>

namespace mpc::place {
namespace {

constexpr int kGroupsPerDevice = 10;  // at least so many, or moving one would unbalance a device
constexpr int kMostReaders = 64;      // a tensor that everyone reads holds no two blocks together

/// Time of each block where it runs fastest.
std::vector<double> least_times(const Instance& instance) {
  std::vector<double> time(static_cast<size_t>(instance.blocks), kForbidden);
  for (const DeviceKind& kind : instance.kinds) {
    for (size_t i = 0; i < time.size(); ++i) time[i] = std::min(time[i], kind.time[i]);
  }
  return time;
}

/// One round: every block joins at most one other.
int join_once(const Instance& instance, int target, const std::vector<int>& device, std::vector<int>& group,
              Random& random) {
  const std::vector<double> time = least_times(instance);
  double total = 0;
  for (const double t : time) total += t == kForbidden ? 0 : t;
  const double most_time = total / (kGroupsPerDevice * std::max(1, instance.devices()));
  const double most_memory = instance.kinds[0].memory / kGroupsPerDevice;
  std::vector<int> order(static_cast<size_t>(instance.blocks));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[static_cast<size_t>(random.below(static_cast<int>(i)))]);
  std::vector<int> mate(order.size(), -1);
  std::vector<double> pull(order.size(), 0);
  std::vector<int> near;
  int groups = instance.blocks;
  const auto add = [&](int block, double cost) {
    if (pull[static_cast<size_t>(block)] == 0) near.push_back(block);
    pull[static_cast<size_t>(block)] += cost;
  };
  for (const int block : order) {
    const size_t b = static_cast<size_t>(block);
    if (mate[b] >= 0 || groups <= target) continue;
    near.clear();
    for (const int t : instance.produced[block]) {
      const auto readers = instance.consumers[t];
      if (readers.size() > kMostReaders) continue;
      for (const int reader : readers)
        add(reader, instance.cost[static_cast<size_t>(t)] / static_cast<double>(readers.size()));
    }
    for (const int t : instance.consumed[block]) {
      const size_t readers = instance.consumers[t].size();
      if (readers <= kMostReaders)
        add(instance.producer[static_cast<size_t>(t)],
            instance.cost[static_cast<size_t>(t)] / static_cast<double>(readers));
    }
    int best = -1;
    double best_pull = 0;
    for (const int other : near) {
      const size_t o = static_cast<size_t>(other);
      const double rate = pull[o] / (time[b] + time[o] + 1e-3 * most_time);
      pull[o] = 0;
      if (mate[o] >= 0 || time[b] + time[o] > most_time || instance.memory[b] + instance.memory[o] > most_memory)
        continue;
      bool alike = device.empty() || device[b] == device[o];
      for (const DeviceKind& kind : instance.kinds)
        alike = alike && (kind.time[b] == kForbidden) == (kind.time[o] == kForbidden);
      if (!alike || rate <= best_pull) continue;
      best = other;
      best_pull = rate;
    }
    if (best < 0) continue;
    mate[b] = best;
    mate[static_cast<size_t>(best)] = block;
    --groups;
  }
  int next = 0;
  group.assign(order.size(), -1);
  for (size_t i = 0; i < order.size(); ++i) {
    if (group[i] >= 0) continue;
    group[i] = next;
    if (mate[i] >= 0) group[static_cast<size_t>(mate[i])] = next;
    ++next;
  }
  return next;
}

}  // namespace

std::vector<int> heavy_groups(const Instance& instance, int target, const std::vector<int>& device_of_block,
                              Random& random) {
  std::vector<int> device = device_of_block;
  std::vector<int> result(static_cast<size_t>(instance.blocks));
  std::iota(result.begin(), result.end(), 0);
  Instance level;
  const Instance* current = &instance;
  while (current->blocks > target) {
    std::vector<int> group;
    const int groups = join_once(*current, target, device, group, random);
    if (groups * 20 > current->blocks * 19) break;
    for (int& block : result) block = group[static_cast<size_t>(block)];
    if (!device.empty()) {
      std::vector<int> device_of_group(static_cast<size_t>(groups));
      for (size_t i = 0; i < group.size(); ++i) device_of_group[static_cast<size_t>(group[i])] = device[i];
      device = std::move(device_of_group);
    }
    level = grouped(*current, group);
    current = &level;
  }
  return result;
}

Instance grouped(const Instance& instance, const std::vector<int>& group_of_block) {
  Instance result;
  for (const int group : group_of_block) result.blocks = std::max(result.blocks, group + 1);
  const size_t groups = static_cast<size_t>(result.blocks);
  result.memory.assign(groups, 0);
  for (const DeviceKind& kind : instance.kinds) {
    DeviceKind& mine = result.kinds.emplace_back(kind);
    mine.time.assign(groups, 0);
    for (size_t i = 0; i < group_of_block.size(); ++i)
      mine.time[static_cast<size_t>(group_of_block[i])] += kind.time[i];
  }
  for (size_t i = 0; i < group_of_block.size(); ++i)
    result.memory[static_cast<size_t>(group_of_block[i])] += instance.memory[i];
  struct Row {
    int producer;
    int tensor;
    std::vector<int> readers;
  };
  std::vector<Row> rows;
  for (int t = 0; t < instance.tensors(); ++t) {
    Row row{group_of_block[static_cast<size_t>(instance.producer[static_cast<size_t>(t)])], t, {}};
    for (const int reader : instance.consumers[t]) {
      const int group = group_of_block[static_cast<size_t>(reader)];
      if (group != row.producer) row.readers.push_back(group);
    }
    std::sort(row.readers.begin(), row.readers.end());
    row.readers.erase(std::unique(row.readers.begin(), row.readers.end()), row.readers.end());
    if (!row.readers.empty()) rows.push_back(std::move(row));
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    if (a.producer != b.producer) return a.producer < b.producer;
    return a.readers != b.readers ? a.readers < b.readers : a.tensor < b.tensor;
  });
  std::vector<std::vector<int>> consumed(groups);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    const double cost = instance.cost[static_cast<size_t>(row.tensor)];
    if (i > 0 && rows[i - 1].producer == row.producer && rows[i - 1].readers == row.readers) {
      result.cost.back() += cost;
      continue;
    }
    while (result.produced.size() < row.producer) result.produced.end_row();
    const int tensor = result.tensors();
    result.produced.items.push_back(tensor);
    result.cost.push_back(cost);
    result.producer.push_back(row.producer);
    for (const int reader : row.readers) {
      result.consumers.items.push_back(reader);
      consumed[static_cast<size_t>(reader)].push_back(tensor);
    }
    result.consumers.end_row();
  }
  while (result.produced.size() < result.blocks) result.produced.end_row();
  for (const std::vector<int>& list : consumed) {
    result.consumed.items.insert(result.consumed.items.end(), list.begin(), list.end());
    result.consumed.end_row();
  }
  return result;
}

Instance with_common_tensors(const Instance& instance) {
  Instance turned = instance;
  for (int t = 0; t < turned.tensors(); ++t) {
    int& producer = turned.producer[static_cast<size_t>(t)];
    if (turned.consumers[t].size() != 1) continue;
    int& reader = turned.consumers.items[static_cast<size_t>(turned.consumers.first[static_cast<size_t>(t)])];
    if (reader < producer) std::swap(reader, producer);
  }
  std::vector<int> itself(static_cast<size_t>(instance.blocks));
  std::iota(itself.begin(), itself.end(), 0);
  return grouped(turned, itself);
}

}  // namespace mpc::place
