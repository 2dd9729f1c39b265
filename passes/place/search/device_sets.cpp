#include "passes/place/search/device_sets.h"

#include <algorithm>
#include <numeric>

namespace mpc::place {

// Bounds hold for sums in any order: what rounding may do is kept outside of them.
constexpr double kRounding = 1e-9;
constexpr double kSlack = 1 + kRounding;

DeviceSets::DeviceSets(const Instance& instance) : instance_(instance) {
  for (const DeviceKind& kind : instance.kinds) {
    stride_.push_back(count_);
    most_.push_back(kind.count);
    count_ *= kind.count + 1;
  }
  sum_up();
}

DeviceSets::DeviceSets(const Instance& instance, const std::vector<int>& device_order)
    : instance_(instance), count_(static_cast<int>(device_order.size()) + 1), order_(device_order) {
  for (const DeviceKind& kind : instance.kinds) most_.push_back(kind.count);
  for (const int device : device_order) kind_at_.push_back(instance.kind_of(device));
  kind_at_.push_back(-1);
  sum_up();
}

void DeviceSets::sum_up() {
  for (size_t block = 0; block < static_cast<size_t>(instance_.blocks); ++block) {
    const double time = instance_.kinds[0].time[block];
    reference_.push_back(time == kForbidden ? 0 : time);
    total_time_ += reference_.back();
    total_memory_ += instance_.memory[block];
  }
  // A second of transfers on a device of another kind is not a second of the first one's work.
  cuts_count_ = instance_.kinds.size() == 1 && instance_.kinds[0].pays_transfers && !instance_.overlaps_transfers;
  time_slack_ = total_time_ * kRounding;
  memory_slack_ = total_memory_ * kRounding;
  offload_.resize(instance_.kinds.size());
  for (size_t kind = 1; kind < instance_.kinds.size(); ++kind) sort_by_gain(kind);
  most_memory_.assign(static_cast<size_t>(count_), 0);
  devices_.assign(static_cast<size_t>(count_), 0);
  for (int state = 0; state < count_; ++state) {
    for (size_t k = 0; k < most_.size(); ++k) {
      const int mine = used(state, k);
      devices_[static_cast<size_t>(state)] += mine;
      if (mine > 0) most_memory_[static_cast<size_t>(state)] += mine * memory_limit(instance_.kinds[k].memory) * kSlack;
    }
  }
  count_held();
}

void DeviceSets::count_held() {
  const int stages = std::min(most_used_, devices(full()));
  held_of_.resize(static_cast<size_t>(count_));
  for (int state = 0; state < count_; ++state)
    held_of_[static_cast<size_t>(state)] = held_.of(std::min(devices(state), stages - 1), stages, microbatches_);
}

int DeviceSets::used(int state, size_t kind) const {
  if (order_.empty()) return state / stride_[kind] % (most_[kind] + 1);
  return static_cast<int>(std::count(kind_at_.begin(), kind_at_.begin() + state, static_cast<int>(kind)));
}

int DeviceSets::next_device(int state, int kind) const {
  if (!order_.empty()) return order_[static_cast<size_t>(state)];
  int device = used(state, static_cast<size_t>(kind));
  for (int k = 0; k < kind; ++k) device += most_[static_cast<size_t>(k)];
  return device;
}

void DeviceSets::sort_by_gain(size_t kind) {
  const std::vector<double>& mine = instance_.kinds[kind].time;
  Offload& offload = offload_[kind];
  std::vector<int> order;
  for (int block = 0; block < instance_.blocks; ++block) {
    const double cost = mine[static_cast<size_t>(block)];
    if (cost < kForbidden && reference_[static_cast<size_t>(block)] > 0) order.push_back(block);
  }
  // Compared as products: a block without time comes first, whatever it gains.
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    const size_t i = static_cast<size_t>(a), j = static_cast<size_t>(b);
    return reference_[i] * mine[j] > reference_[j] * mine[i];
  });
  for (const int block : order) {
    offload.time.push_back(offload.time.back() + mine[static_cast<size_t>(block)]);
    offload.gain.push_back(offload.gain.back() + reference_[static_cast<size_t>(block)]);
  }
}

double DeviceSets::offloaded(size_t kind, double time) const {
  const Offload& offload = offload_[kind];
  const size_t next =
      static_cast<size_t>(std::upper_bound(offload.time.begin(), offload.time.end(), time) - offload.time.begin());
  if (next == offload.time.size()) return offload.gain.back();
  const double step = offload.time[next] - offload.time[next - 1];
  return offload.gain[next - 1] +
         (offload.gain[next] - offload.gain[next - 1]) * ((time - offload.time[next - 1]) / step);
}

void DeviceSets::set_bound(double bound) {
  most_time_.assign(static_cast<size_t>(count_), 0);
  for (size_t k = 0; k < most_.size(); ++k) {
    std::vector<double> of_used(static_cast<size_t>(most_[k]) + 1, 0);
    for (size_t used = 1; used < of_used.size(); ++used) {
      const double time = static_cast<double>(used) * bound;
      of_used[used] = k == 0 ? time : offloaded(k, time);
    }
    for (int state = 0; state < count_; ++state) {
      most_time_[static_cast<size_t>(state)] += of_used[static_cast<size_t>(used(state, k))] * kSlack;
    }
  }
}

double work_bound(const Instance& instance) {
  double largest = 0;
  for (size_t block = 0; block < static_cast<size_t>(instance.blocks); ++block) {
    double least = kForbidden;
    for (const DeviceKind& kind : instance.kinds) least = std::min(least, kind.time[block]);
    largest = std::max(largest, least);
  }
  // All devices are asked about, so a row of them does: where each is a kind of its own there are 2^devices sets.
  std::vector<int> row(static_cast<size_t>(instance.devices()));
  std::iota(row.begin(), row.end(), 0);
  DeviceSets sets(instance, row);
  double low = largest, high = std::max(largest, sets.total_time());
  if (largest == kForbidden) return kForbidden;
  const auto is_enough = [&](double bound) {
    sets.set_bound(bound / kSlack);
    return sets.most_time(sets.full()) >= sets.total_time();
  };
  if (is_enough(low)) return low;
  for (int i = 0; i < 60; ++i) {
    const double middle = low + (high - low) / 2;
    (is_enough(middle) ? high : low) = middle;
  }
  return low;
}

}  // namespace mpc::place
