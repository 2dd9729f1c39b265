#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "passes/place/search/instance.h"
#include "passes/schedule/held_microbatches.h"

namespace mpc::place {

inline constexpr int kFewKinds = 4;

/// What counts of one set of blocks that is alone on a device while all others are elsewhere, and what follows.
/// @pre the instance has at most kMost kinds.
template <int kMost>
class StageSums {
 public:
  struct Totals {
    std::array<double, kMost> time{};
    std::array<int, kMost> forbidden{};  // blocks that may not run on the kind
    double received_s = 0;               // of tensors
    double sent_s = 0;
    double memory = 0;
    double kept = 0;              // bytes per micro-batch in flight
    double kept_for_weights = 0;  // per micro-batch that owes its weight gradients
    double received_bytes = 0;    // in flight, of what other stages made
    double copied = 0;
    double working = 0;
  };

  const Totals& totals() const { return totals_; }

  /// Load on a device of the kind, or kForbidden when the set may not or cannot be there.
  double load(int kind) const {
    const size_t k = static_cast<size_t>(kind);
    const DeviceKind& device = instance_.kinds.data()[k];
    if (totals_.forbidden.data()[k] > 0 || bytes({}) > memory_limit(device.memory)) return kForbidden;
    return instance_.load(device, totals_.time.data()[k], totals_.received_s, totals_.sent_s);
  }

  /// Seconds of the tensors that arrive and leave.
  double transfers() const { return totals_.received_s + totals_.sent_s; }

  /// Does a device of the kind hold the set with the activations of so many micro-batches?
  bool holds(int kind, const Held& held) const {
    return !has_activations_ || bytes(held) <= memory_limit(instance_.kinds.data()[static_cast<size_t>(kind)].memory);
  }

  /// No set that contains this one, and pays `transfers` at least, can have a load of at most `bound` on the kind.
  bool is_beyond(int kind, double bound, double transfers) const {
    const size_t k = static_cast<size_t>(kind);
    const DeviceKind& device = instance_.kinds.data()[k];
    return totals_.forbidden.data()[k] > 0 ||
           instance_.load(device, totals_.time.data()[k], 0, instance_.overlaps_transfers ? 0 : transfers) > bound ||
           totals_.memory + totals_.kept + totals_.working > memory_limit(device.memory);
  }
  /// The same on any kind, whatever it pays.
  bool is_beyond(double bound) const {
    for (int kind = 0; kind < kinds_; ++kind) {
      if (!is_beyond(kind, bound, 0)) return false;
    }
    return true;
  }

 protected:
  explicit StageSums(const Instance& instance)
      : instance_(instance),
        kinds_(static_cast<int>(instance.kinds.size())),
        has_activations_(!instance.kept.empty()) {}

  /// Adds what a block takes by itself.
  void add_block(int block, Totals& totals) const {
    const size_t b = static_cast<size_t>(block);
    for (size_t k = 0; k < static_cast<size_t>(kinds_); ++k) {
      const double time = instance_.kinds[k].time.data()[b];
      if (time == kForbidden)
        ++totals.forbidden[k];
      else
        totals.time[k] += time;
    }
    totals.memory += instance_.memory.data()[b];
    if (!has_activations_) return;
    totals.kept += instance_.kept[b];
    totals.kept_for_weights += instance_.kept_for_weights[b];
    totals.working = std::max(totals.working, instance_.working[b]);
  }

  const Instance& instance_;
  int kinds_;
  bool has_activations_;
  Totals totals_{};

 private:
  double bytes(const Held& held) const {
    return totals_.memory + held.bytes(totals_.kept + totals_.received_bytes, totals_.kept_for_weights) +
           totals_.copied + totals_.working;
  }
};

/// Sums of a set that blocks join and leave one at a time, O(tensors of the block + kinds) each.
template <int kMost>
class StageLoad : public StageSums<kMost> {
  using Base = StageSums<kMost>;
  using Base::has_activations_, Base::instance_, Base::totals_;

 public:
  using typename Base::Totals;

  explicit StageLoad(const Instance& instance)
      : Base(instance),
        inside_(static_cast<size_t>(instance.blocks), 0),
        readers_(static_cast<size_t>(instance.tensors()), 0) {
    for (int t = 0; t < instance.tensors(); ++t) all_readers_.push_back(static_cast<int>(instance.consumers[t].size()));
  }

  void add(int block) {
    Base::add_block(block, totals_);
    if (has_activations_) add_activations(block);
    inside_.data()[static_cast<size_t>(block)] = 1;
    const double* cost = instance_.cost.data();
    int* readers = readers_.data();
    const int* all = all_readers_.data();
    for (const int t : instance_.produced[block]) {
      if (readers[t] > 0) totals_.received_s -= cost[t];   // arrived until now
      if (readers[t] < all[t]) totals_.sent_s += cost[t];  // leaves from now on
    }
    for (const int t : instance_.consumed[block]) {
      const bool is_home = inside_.data()[instance_.producer.data()[t]] != 0;
      const int count = ++readers[t];
      if (is_home && count == all[t]) totals_.sent_s -= cost[t];
      if (!is_home && count == 1) totals_.received_s += cost[t];
    }
  }

  /// Takes back the last add(): `before` is what totals() was then. Sums that are taken back lose bits, sums that are
  /// kept do not.
  void remove(int block, const Totals& before) {
    inside_.data()[static_cast<size_t>(block)] = 0;
    for (const int t : instance_.consumed[block]) --readers_.data()[t];
    totals_ = before;
  }

  void clear() {
    std::fill(inside_.begin(), inside_.end(), 0);
    std::fill(readers_.begin(), readers_.end(), 0);
    totals_ = {};
  }

 private:
  /// The bytes of its tensors. @pre it is not inside yet, and neither are its tensors' readers counted.
  void add_activations(int block) {
    const auto change = [&](int t, double sign) {
      totals_.received_bytes += sign * instance_.received[static_cast<size_t>(t)];
      totals_.copied += sign * instance_.copied[static_cast<size_t>(t)];
    };
    for (const int t : instance_.produced[block]) {
      if (readers_[static_cast<size_t>(t)] > 0) change(t, -1);
    }
    for (const int t : instance_.consumed[block]) {
      const bool is_home = inside_[static_cast<size_t>(instance_.producer[static_cast<size_t>(t)])] != 0;
      if (!is_home && readers_[static_cast<size_t>(t)] == 0) change(t, 1);
    }
  }

  std::vector<char> inside_;      // [block]
  std::vector<int> readers_;      // [tensor]: consumers inside
  std::vector<int> all_readers_;  // [tensor]
};

}  // namespace mpc::place
