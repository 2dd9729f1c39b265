#include "passes/place/search/exhaust.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace mpc::place {
namespace {

constexpr int64_t kBranchUnits = 60;

class Exhaust {
 public:
  Exhaust(const Instance& instance, double bound, Work& work)
      : instance_(instance), best_(bound), work_(work), devices_(instance.devices()) {
    for (size_t kind = 0; kind < instance.kinds.size(); ++kind) {
      for (int i = 0; i < instance.kinds[kind].count; ++i) kind_.push_back(static_cast<int>(kind));
    }
    const size_t blocks = static_cast<size_t>(instance.blocks);
    std::vector<double> least(blocks, kForbidden);
    for (const DeviceKind& kind : instance.kinds) {
      for (size_t i = 0; i < blocks; ++i) least[i] = std::min(least[i], kind.time[i]);
    }
    order_.resize(blocks);
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int a, int b) { return least[static_cast<size_t>(a)] > least[static_cast<size_t>(b)]; });
    put_neighbours_together(least);
    left_.assign(blocks + 1, 0);
    for (size_t i = blocks; i-- > 0;) left_[i] = left_[i + 1] + least[static_cast<size_t>(order_[i])];
    device_.assign(blocks, -1);
    blocks_on_.assign(kind_.size(), 0);
    memory_.assign(kind_.size(), 0);
    readers_.assign(static_cast<size_t>(instance.tensors()) * kind_.size(), 0);
    loads_.assign((blocks + 1) * kind_.size(), 0);
  }

  ExhaustResult run() {
    ExhaustResult result;
    result.is_complete = branch(0);
    if (!found_.device_of_block.empty()) result.split = std::move(found_);
    return result;
  }

 private:
  /// Next is always the block with the most time and tensors to those before it: what has to be paid is known early.
  void put_neighbours_together(const std::vector<double>& least) {
    std::vector<double> weight = least;
    std::vector<char> is_met(static_cast<size_t>(instance_.tensors()), 0);
    for (size_t i = 0; i < order_.size(); ++i) {
      const auto next = std::max_element(
          order_.begin() + static_cast<std::ptrdiff_t>(i), order_.end(),
          [&](int a, int b) { return weight[static_cast<size_t>(a)] < weight[static_cast<size_t>(b)]; });
      const int block = *next;
      std::rotate(order_.begin() + static_cast<std::ptrdiff_t>(i), next, next + 1);
      const auto meet = [&](int t) {
        if (std::exchange(is_met[static_cast<size_t>(t)], 1) != 0) return;
        const double cost = instance_.cost[static_cast<size_t>(t)];
        weight[static_cast<size_t>(instance_.producer[static_cast<size_t>(t)])] += cost;
        for (const int reader : instance_.consumers[t]) weight[static_cast<size_t>(reader)] += cost;
      };
      for (const int t : instance_.produced[block]) meet(t);
      for (const int t : instance_.consumed[block]) meet(t);
    }
  }

  const double* loads_at(size_t depth) const { return loads_.data() + depth * kind_.size(); }
  double* loads_at(size_t depth) { return loads_.data() + depth * kind_.size(); }

  /// @return false when the work is over. @pre depth <= blocks, and callers only come for a few blocks.
  bool branch(size_t depth) {
    if (depth == order_.size()) {
      found_.device_of_block = device_;
      found_.value = *std::max_element(loads_at(depth), loads_at(depth) + devices_);
      best_ = found_.value;
      return true;
    }
    const int block = order_[depth];
    std::vector<char> has_tried_unused(instance_.kinds.size(), 0);
    for (int device = 0; device < devices_; ++device) {
      const size_t d = static_cast<size_t>(device);
      const size_t kind = static_cast<size_t>(kind_[d]);
      if (blocks_on_[d] == 0 && std::exchange(has_tried_unused[kind], 1) != 0) continue;
      if (instance_.kinds[kind].time[static_cast<size_t>(block)] == kForbidden) continue;
      if (memory_[d] + instance_.memory[static_cast<size_t>(block)] > memory_limit(instance_.kinds[kind].memory))
        continue;
      if (!work_.spend(kBranchUnits)) return false;
      put(block, device, depth);
      const bool goes_on = !is_promising(depth + 1) || branch(depth + 1);
      take_back(block, device);
      if (!goes_on) return false;
    }
    return true;
  }

  bool is_promising(size_t depth) const {
    const double* loads = loads_at(depth);
    const double sum = std::accumulate(loads, loads + devices_, left_[depth]);
    return *std::max_element(loads, loads + devices_) < best_ && sum < best_ * devices_ * (1 + 1e-12);
  }

  /// Loads with the block on the device count what its tensors cost for certain: those between placed blocks.
  void put(int block, int device, size_t depth) {
    const size_t devices = kind_.size();
    const size_t d = static_cast<size_t>(device);
    double* loads = loads_at(depth + 1);
    std::copy_n(loads_at(depth), devices, loads);
    const auto pay = [&](size_t who, double cost) {
      if (instance_.kinds[static_cast<size_t>(kind_[who])].pays_transfers) loads[who] += cost;
    };
    loads[d] += instance_.kinds[static_cast<size_t>(kind_[d])].time[static_cast<size_t>(block)];
    for (const int t : instance_.produced[block]) {
      const int* readers = readers_.data() + static_cast<size_t>(t) * devices;
      bool leaves = false;
      for (size_t other = 0; other < devices; ++other) {
        if (other == d || readers[other] == 0) continue;
        pay(other, instance_.cost[static_cast<size_t>(t)]);
        leaves = true;
      }
      if (leaves) pay(d, instance_.cost[static_cast<size_t>(t)]);
    }
    for (const int t : instance_.consumed[block]) {
      int* readers = readers_.data() + static_cast<size_t>(t) * devices;
      const int home = device_[static_cast<size_t>(instance_.producer[static_cast<size_t>(t)])];
      if (home >= 0 && home != device && readers[d] == 0) {
        pay(d, instance_.cost[static_cast<size_t>(t)]);
        bool left_before = false;
        for (size_t other = 0; other < devices; ++other)
          left_before |= static_cast<int>(other) != home && readers[other] > 0;
        if (!left_before) pay(static_cast<size_t>(home), instance_.cost[static_cast<size_t>(t)]);
      }
      ++readers[d];
    }
    device_[static_cast<size_t>(block)] = device;
    memory_[d] += instance_.memory[static_cast<size_t>(block)];
    ++blocks_on_[d];
  }

  void take_back(int block, int device) {
    const size_t d = static_cast<size_t>(device);
    for (const int t : instance_.consumed[block]) --readers_[static_cast<size_t>(t) * kind_.size() + d];
    device_[static_cast<size_t>(block)] = -1;
    memory_[d] -= instance_.memory[static_cast<size_t>(block)];
    --blocks_on_[d];
  }

  const Instance& instance_;
  double best_;
  Work& work_;
  int devices_;
  std::vector<int> kind_;  // [device]
  std::vector<int> order_;
  std::vector<double> left_;    // [depth]: least time of the blocks not placed yet
  std::vector<int> device_;     // [block], -1 while not placed
  std::vector<int> blocks_on_;  // [device]
  std::vector<double> memory_;  // [device]
  std::vector<int> readers_;    // (tensor, device): placed readers
  std::vector<double> loads_;   // (depth, device)
  Split found_;
};

}  // namespace

ExhaustResult split_exhaustively(const Instance& instance, double bound, Work& work) {
  return Exhaust(instance, bound, work).run();
}

}  // namespace mpc::place
