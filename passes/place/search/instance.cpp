#include "passes/place/search/instance.h"

#include <algorithm>

namespace mpc::place {

Rows unique_rows(std::vector<std::pair<int, int>> pairs, int rows) {
  if (!std::is_sorted(pairs.begin(), pairs.end())) std::sort(pairs.begin(), pairs.end());
  pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
  Rows result;
  result.items.reserve(pairs.size());
  size_t next = 0;
  for (int row = 0; row < rows; ++row) {
    while (next < pairs.size() && pairs[next].first == row) result.items.push_back(pairs[next++].second);
    result.end_row();
  }
  return result;
}

int Instance::devices() const {
  int count = 0;
  for (const DeviceKind& kind : kinds) count += kind.count;
  return count;
}

int Instance::kind_of(int device) const {
  int kind = 0;
  while (device >= kinds[static_cast<size_t>(kind)].count) device -= kinds[static_cast<size_t>(kind++)].count;
  return kind;
}

namespace {

/// Adds what every tensor costs its sender and its receivers.
void add_transfers(const Instance& instance, std::span<const int> device_of_block, const std::vector<char>& pays,
                   Loads& loads) {
  std::vector<int> seen(pays.size(), -1);  // [device]: the last tensor that arrived there
  for (int t = 0; t < instance.tensors(); ++t) {
    const size_t home =
        static_cast<size_t>(device_of_block[static_cast<size_t>(instance.producer[static_cast<size_t>(t)])]);
    const double cost = instance.cost[static_cast<size_t>(t)];
    bool leaves = false;
    for (const int block : instance.consumers[t]) {
      const size_t device = static_cast<size_t>(device_of_block[static_cast<size_t>(block)]);
      if (device == home || seen[device] == t) continue;
      seen[device] = t;
      leaves = true;
      if (pays[device] != 0) loads.received[device] += cost;
    }
    if (leaves && pays[home] != 0) loads.sent[home] += cost;
  }
}

}  // namespace

Loads loads_of(const Instance& instance, std::span<const int> device_of_block) {
  const size_t devices = static_cast<size_t>(instance.devices());
  Loads loads;
  loads.compute.assign(devices, 0);
  loads.received.assign(devices, 0);
  loads.sent.assign(devices, 0);
  loads.memory.assign(devices, 0);
  std::vector<char> pays;
  std::vector<double> capacity;
  std::vector<const double*> time;
  std::vector<const DeviceKind*> kind_of;
  for (const DeviceKind& kind : instance.kinds) {
    for (int i = 0; i < kind.count; ++i) {
      pays.push_back(kind.pays_transfers ? 1 : 0);
      capacity.push_back(kind.memory);
      time.push_back(kind.time.data());
      kind_of.push_back(&kind);
    }
  }
  for (size_t block = 0; block < static_cast<size_t>(instance.blocks); ++block) {
    const size_t device = static_cast<size_t>(device_of_block[block]);
    loads.compute[device] += time[device][block];
    loads.memory[device] += instance.memory[block];
  }
  add_transfers(instance, device_of_block, pays, loads);
  for (size_t device = 0; device < devices; ++device) {
    loads.largest = std::max(loads.largest, instance.load(*kind_of[device], loads.compute[device],
                                                          loads.received[device], loads.sent[device]));
    if (loads.memory[device] > memory_limit(capacity[device]))
      loads.overflow += loads.memory[device] - capacity[device];
  }
  return loads;
}

}  // namespace mpc::place
