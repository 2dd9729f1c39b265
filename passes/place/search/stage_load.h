#pragma once

#include <array>
#include <vector>

#include "passes/place/search/instance.h"

namespace mpc::place {

inline constexpr int kMostKinds = 4;

/// The load of one set of blocks as if it were alone on a device and all others were elsewhere; blocks join and leave
/// one at a time, O(tensors of the block) each.
class StageLoad {
 public:
  explicit StageLoad(const Instance& instance)
      : instance_(instance),
        kinds_(static_cast<int>(instance.kinds.size())),
        inside_(static_cast<size_t>(instance.blocks), 0),
        readers_(static_cast<size_t>(instance.tensors()), 0) {
    for (int t = 0; t < instance.tensors(); ++t) all_readers_.push_back(static_cast<int>(instance.consumers[t].size()));
    totals_ = {};
  }

  /// What add() changed, to be handed to remove(): sums that are taken back lose bits, sums that are kept do not.
  struct Totals {
    std::array<double, kMostKinds> time{};
    std::array<int, kMostKinds> forbidden{};  // blocks that may not run on the kind
    double transfers = 0;
    double memory = 0;
  };

  const Totals& totals() const { return totals_; }

  void add(int block) {
    const size_t b = static_cast<size_t>(block);
    for (int k = 0; k < kinds_; ++k) {
      const double time = instance_.kinds[static_cast<size_t>(k)].time.data()[b];
      if (time == kForbidden)
        ++totals_.forbidden[static_cast<size_t>(k)];
      else
        totals_.time[static_cast<size_t>(k)] += time;
    }
    totals_.memory += instance_.memory.data()[b];
    inside_.data()[b] = 1;
    const double* cost = instance_.cost.data();
    int* readers = readers_.data();
    const int* all = all_readers_.data();
    for (const int t : instance_.produced[block]) {
      if (readers[t] > 0) totals_.transfers -= cost[t];       // arrived until now
      if (readers[t] < all[t]) totals_.transfers += cost[t];  // leaves from now on
    }
    for (const int t : instance_.consumed[block]) {
      const bool is_home = inside_.data()[instance_.producer.data()[t]] != 0;
      const int count = ++readers[t];
      if (is_home && count == all[t]) totals_.transfers -= cost[t];
      if (!is_home && count == 1) totals_.transfers += cost[t];
    }
  }

  /// Takes back the last add(): `before` is what totals() was then.
  void remove(int block, const Totals& before) {
    inside_.data()[static_cast<size_t>(block)] = 0;
    for (const int t : instance_.consumed[block]) --readers_.data()[t];
    totals_ = before;
  }

  /// Load on a device of the kind, or kForbidden when the set may not or cannot be there.
  double load(int kind) const {
    const size_t k = static_cast<size_t>(kind);
    const DeviceKind& device = instance_.kinds.data()[k];
    if (totals_.forbidden.data()[k] > 0 || totals_.memory > memory_limit(device.memory)) return kForbidden;
    return totals_.time.data()[k] + (device.pays_transfers ? totals_.transfers : 0);
  }

  /// No set that contains this one, and pays `transfers` at least, can have a load of at most `bound` on any device.
  bool is_beyond(double bound, double transfers = 0) const {
    for (int k = 0; k < kinds_; ++k) {
      const size_t i = static_cast<size_t>(k);
      const DeviceKind& device = instance_.kinds.data()[i];
      if (totals_.forbidden.data()[i] == 0 &&
          totals_.time.data()[i] + (device.pays_transfers ? transfers : 0) <= bound &&
          totals_.memory <= memory_limit(device.memory))
        return false;
    }
    return true;
  }

  void clear() {
    std::fill(inside_.begin(), inside_.end(), 0);
    std::fill(readers_.begin(), readers_.end(), 0);
    totals_ = {};
  }

 private:
  const Instance& instance_;
  int kinds_;
  std::vector<char> inside_;      // [block]
  std::vector<int> readers_;      // [tensor]: consumers inside
  std::vector<int> all_readers_;  // [tensor]
  Totals totals_;
};

}  // namespace mpc::place
