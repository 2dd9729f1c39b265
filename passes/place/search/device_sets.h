#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "passes/place/search/instance.h"
#include "passes/schedule/held_microbatches.h"

namespace mpc::place {

/// Which devices a prefix of stages uses, as one number: how many of each kind, or when that gives too many states how
/// many of a row of devices in a fixed order; and how much work they can have done when no
/// device has more than a bound. States that cannot belong to a split below the bound are what the dynamic programs
/// leave out.
class DeviceSets {
 public:
  explicit DeviceSets(const Instance& instance);
  /// Stages on these devices, in this order. @pre every device of the instance appears once.
  DeviceSets(const Instance& instance, const std::vector<int>& device_order);

  int count() const { return count_; }
  int full() const { return count_ - 1; }
  /// What a state grows by with one more device of the kind.
  int stride(int kind) const { return order_.empty() ? stride_[static_cast<size_t>(kind)] : 1; }
  bool has_room(int state, int kind) const {
    if (!order_.empty()) return kind_at_[static_cast<size_t>(state)] == kind;
    const int digit = state / stride_[static_cast<size_t>(kind)] % (most_[static_cast<size_t>(kind)] + 1);
    return digit < most_[static_cast<size_t>(kind)];
  }
  /// Device number of the next device of the kind in a state.
  int next_device(int state, int kind) const;

  /// Devices that a state uses.
  int devices(int state) const { return devices_[static_cast<size_t>(state)]; }
  /// A split has to use so many devices at least and at most.
  void limit(int least, int most) {
    least_ = least;
    most_used_ = most;
    count_held();
  }
  /// Is what few devices did better than the same done by more? @see is_part_of.
  bool fewer_are_better() const { return order_.empty() && least_ <= 1 && microbatches_ == 1; }
  /// Are the devices of the one state among those of the other? @pre no fixed order of devices.
  bool is_part_of(int state, int other) const {
    for (size_t kind = 0; kind < most_.size(); ++kind) {
      if (used(state, kind) > used(other, kind)) return false;
    }
    return true;
  }
  bool is_final(int state) const { return least_ <= devices(state) && devices(state) <= most_used_; }
  /// What stages hold of a step of so many micro-batches.
  void set_microbatches(int microbatches, const HeldMicrobatches& held) {
    microbatches_ = microbatches;
    held_ = held;
    count_held();
  }
  /// What the stage after `state` holds when there are as many stages as there may be.
  const Held& held(int state) const { return held_of_.data()[static_cast<size_t>(state)]; }

  /// Sets the bound that fits() judges by. O(states + blocks log blocks).
  void set_bound(double bound);
  /// Can the devices of `state` hold blocks of this much reference time and memory, and the others the rest? Both sides
  /// also pay for the tensors between them, `cut` together.
  bool fits(int state, double time, double memory, double cut = 0) const {
    const size_t s = static_cast<size_t>(state);
    const size_t rest = static_cast<size_t>(full() - state);
    const double paid = cuts_count_ ? cut : 0;
    return time + paid <= most_time_.data()[s] && total_time_ - time + paid <= most_time_.data()[rest] + time_slack_ &&
           memory <= most_memory_.data()[s] && total_memory_ - memory <= most_memory_.data()[rest] + memory_slack_;
  }
  /// Time of a block on the first kind, 0 where it may not run there: what fits() counts.
  double reference_time(int block) const { return reference_.data()[static_cast<size_t>(block)]; }
  double total_time() const { return total_time_; }
  /// The reference time that the devices of `state` can do.
  double most_time(int state) const { return most_time_[static_cast<size_t>(state)]; }

 private:
  /// What a kind takes off the first one: gain[i] reference time in time[i] of its own, the best blocks first.
  struct Offload {
    std::vector<double> time{0};
    std::vector<double> gain{0};
  };
  void sort_by_gain(size_t kind);
  void sum_up();
  void count_held();
  /// Devices of the kind that a state uses.
  int used(int state, size_t kind) const;
  double offloaded(size_t kind, double time) const;

  const Instance& instance_;
  int count_ = 1;
  std::vector<int> stride_;
  std::vector<int> most_;     // [kind]
  std::vector<int> order_;    // devices in the order of stages; empty: any
  std::vector<int> kind_at_;  // [position in order_], and one that no kind equals behind the last
  std::vector<int> devices_;  // [state]
  int least_ = 0;
  int most_used_ = std::numeric_limits<int>::max();
  int microbatches_ = 1;
  bool cuts_count_ = false;  // in fits()
  HeldMicrobatches held_;
  std::vector<Held> held_of_;  // [state]
  std::vector<double> reference_;
  double total_time_ = 0;
  double total_memory_ = 0;
  double time_slack_ = 0;  // what the rounding of sums in another order may make of nothing
  double memory_slack_ = 0;
  std::vector<Offload> offload_;     // [kind], empty for the first
  std::vector<double> most_time_;    // [state]
  std::vector<double> most_memory_;  // [state]
};

/// The least largest load that no split can go below: the bound at which the devices together can just do the work,
/// and the largest block on its best device. O(blocks log blocks) times the bits of a double.
double work_bound(const Instance& instance);

}  // namespace mpc::place
