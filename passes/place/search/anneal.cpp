#include "passes/place/search/anneal.h"

#include <algorithm>
#include <array>

#include "passes/place/search/exp_log.h"

namespace mpc::place {
namespace {

constexpr int kQuantiles = 1024;     // of the exponential distribution that decides about moves uphill
constexpr int kSteps = 256;          // of temperature
constexpr int kHeated = kSteps / 4;  // so many of them have made a split another one
// Bytes over capacity cost ever more at the end. Before, while half of the temperatures are over, they are cheap,
// because from one split that just fits to the next the way leads through those that do not (lat-layer-inceptionv3 on 6
// GPUs and 2 CPUs with 0.8 of the memory, 200,000 proposals, on average: 294 -> 279).
constexpr int kFirm = kSteps * 4 / 5;
constexpr double kSoftRaise = 1.03, kSoftLower = 0.97, kSoftLeast = 0.01;
constexpr double kFirmRaise = 1.2, kFirmLower = 0.98, kFirmLeast = 0.2;
constexpr double kMostPenalty = 1e3;
constexpr int kPartnerTries = 4;
constexpr int kLargestClump = 30;
constexpr int kSmallClump = 4;
// Of 16 proposals so many move one block, those up to the next number a clump, the others swap two blocks or clumps.
constexpr int kSingles[] = {10, 8};  // [Swaps]
constexpr int kClumps[] = {14, 11};
constexpr int64_t kProposalsAtOnce = 50'000;  // before someone may end the search
// Units, measured (bench/README.md: planning_growth.py).
constexpr int64_t kProposalUnits = 115;
constexpr int64_t kTouchUnits = 4;       // one tensor of a moved block
constexpr int64_t kTouchesPerTest = 12;  // of several moves, and their bookkeeping
constexpr int64_t kStepUnits = 25 * kQuantiles;
constexpr int64_t kRecomputeUnits = 5;  // a block or tensor

/// What waits for memory takes longer where readers_ leaves the caches.
struct CacheClass {
  int64_t bytes;    // of readers_, from here on
  int64_t percent;  // of the units of small ones
};
constexpr CacheClass kCacheClasses[] = {{0, 100}, {500'000, 120}, {1'000'000, 140}, {2'000'000, 180}};

class Annealer {
 public:
  Annealer(const Instance& instance, const Split& start, const AnnealOptions& options, Random& random, Work& work)
      : instance_(instance), options_(options), random_(random), work_(work), devices_(instance.devices()) {
    for (int i = 0; i < kQuantiles; ++i) quantile_[static_cast<size_t>(i)] = -log_of((i + 0.5) / kQuantiles);
    for (const DeviceKind& kind : instance.kinds) {
      for (int i = 0; i < kind.count; ++i) {
        time_.push_back(kind.time.data());
        pays_.push_back(kind.pays_transfers ? 1 : 0);
        capacity_.push_back(kind.memory);
      }
    }
    find_neighbours();
    for (int t = 0; t < instance.tensors(); ++t) all_readers_.push_back(static_cast<int>(instance.consumers[t].size()));
    place(start.device_of_block);
    keep_best();
  }

  Split run() {
    const double cooling = log_of(options_.cold / options_.hot) / kSteps;
    const int64_t per_step = std::max<int64_t>(1, options_.proposals / kSteps);
    for (int step = 0; step < kSteps && !work_.is_over(); ++step) {
      set_temperature(options_.hot * exp_of(cooling * step), step);
      work_.spend(kStepUnits + kRecomputeUnits * (instance_.blocks + instance_.tensors()) * percent_ / 100);
      if (options_.counts == Counts::after_heat && step == kHeated) forget_best();
      for (int64_t left = per_step; left > 0 && !work_.is_over(); left -= kProposalsAtOnce)
        propose_some(std::min(left, kProposalsAtOnce));
    }
    return {best_device_, best_overflow_ > 0 ? kForbidden : best_value_, best_overflow_};
  }

 private:
  void propose_some(int64_t proposals) {
    touched_ = 0;
    for (int64_t i = 0; i < proposals; ++i) propose();
    work_.spend((proposals * kProposalUnits + touched_ * kTouchUnits) * percent_ / 100);
  }

  void find_neighbours() {
    for (int block = 0; block < instance_.blocks; ++block) {
      for (const int t : instance_.produced[block]) {
        for (const int reader : instance_.consumers[t]) neighbours_.items.push_back(reader);
      }
      for (const int t : instance_.consumed[block])
        neighbours_.items.push_back(instance_.producer[static_cast<size_t>(t)]);
      neighbours_.end_row();
    }
  }

  void place(const std::vector<int>& device_of_block) {
    const size_t devices = static_cast<size_t>(devices_);
    device_ = device_of_block;
    readers_.assign(static_cast<size_t>(instance_.tensors()) * devices, 0);
    for (const CacheClass& c : kCacheClasses) {
      if (static_cast<int64_t>(readers_.size() * sizeof(int)) >= c.bytes) percent_ = c.percent;
    }
    for (int t = 0; t < instance_.tensors(); ++t) {
      for (const int reader : instance_.consumers[t]) {
        ++readers_[static_cast<size_t>(t) * devices + static_cast<size_t>(device_[static_cast<size_t>(reader)])];
      }
    }
    members_.assign(devices, {});
    slot_.assign(device_.size(), 0);
    for (int block = 0; block < instance_.blocks; ++block) join(block, device_[static_cast<size_t>(block)]);
    recompute();
    power_.assign(devices, 0);
  }

  void recompute() {
    const Loads loads = loads_of(instance_, device_);
    load_.resize(static_cast<size_t>(devices_));
    for (size_t d = 0; d < load_.size(); ++d) load_[d] = loads.compute[d] + loads.received[d] + loads.sent[d];
    memory_ = loads.memory;
  }

  void join(int block, int device) {
    std::vector<int>& list = members_.data()[static_cast<size_t>(device)];
    slot_.data()[static_cast<size_t>(block)] = static_cast<int>(list.size());
    list.push_back(block);
  }
  void leave(int block, int device) {
    std::vector<int>& list = members_.data()[static_cast<size_t>(device)];
    const int slot = slot_.data()[static_cast<size_t>(block)];
    const int last = list.back();
    list.data()[static_cast<size_t>(slot)] = last;
    slot_.data()[static_cast<size_t>(last)] = slot;
    list.pop_back();
  }

  /// Relative bytes over capacity; a little more than that, so that the last byte counts too.
  double over_of(double memory, size_t device) const {
    const double over = memory - capacity_.data()[device];
    if (!(over > 0) || memory <= memory_limit(capacity_.data()[device])) return 0;
    return over / std::max(capacity_.data()[device], 1.0) + 0.01;
  }

  double energy_of(double load, double memory, size_t device) const {
    const double effective = (load + over_load_ * over_of(memory, device)) / scale_;
    double power = effective * effective;
    power *= power;
    for (int p = 4; p < exponent_; p *= 2) power *= power;  // @pre exponent_ is 4, 8, 16, ...
    return power;
  }

  void set_temperature(double temperature, int step) {
    exponent_ = options_.first_power;
    const int ramp = static_cast<int>(options_.ramp_begin * kSteps);
    int doublings = 0;
    while (options_.first_power << doublings < options_.last_power) ++doublings;
    if (step >= ramp)
      exponent_ <<=
          (step - ramp) * (doublings + (ramp == 0 ? 1 : 0)) / (kSteps - ramp) + (ramp > 0 && doublings > 0 ? 1 : 0);
    exponent_ = std::min(exponent_, std::max(options_.first_power, options_.last_power));
    recompute();
    set_penalty(step >= kFirm);
    rescale();
    sum_ = 0;
    for (size_t d = 0; d < load_.size(); ++d) sum_ += power_[d] = energy_of(load_[d], memory_[d], d);
    for (int i = 0; i < kQuantiles; ++i) {
      threshold_[static_cast<size_t>(i)] = exp_of(exponent_ * temperature * quantile_[static_cast<size_t>(i)]);
    }
    find_largest();
  }

  void set_penalty(bool is_firm) {
    if (overflow_now() > 0)
      penalty_ = std::min(penalty_ * (is_firm ? kFirmRaise : kSoftRaise), kMostPenalty);
    else
      penalty_ = std::max(penalty_ * (is_firm ? kFirmLower : kSoftLower), is_firm ? kFirmLeast : kSoftLeast);
  }

  /// The largest power becomes 1, or a high one would leave the range of numbers.
  void rescale() {
    over_load_ = penalty_ * *std::max_element(load_.begin(), load_.end());
    scale_ = 0;
    for (size_t d = 0; d < load_.size(); ++d) scale_ = std::max(scale_, load_[d] + over_load_ * over_of(memory_[d], d));
    if (!(scale_ > 0)) scale_ = 1;
  }

  double overflow_now() const {
    double overflow = 0;
    for (size_t d = 0; d < memory_.size(); ++d) {
      if (memory_[d] > memory_limit(capacity_[d])) overflow += memory_[d] - capacity_[d];
    }
    return overflow;
  }

  void find_largest() {
    largest_ = 0;
    for (int d = 1; d < devices_; ++d) {
      if (power_.data()[d] > power_.data()[largest_]) largest_ = d;
    }
  }

  /// What moving the block to `to` adds to the loads of its device and of `to`.
  struct Change {
    double from = 0;
    double to = 0;
  };
  Change change_of(int block, int from, int to) {
    const size_t devices = static_cast<size_t>(devices_);
    const double* cost = instance_.cost.data();
    const int* readers = readers_.data();
    double from_change = 0, to_change = 0;
    const auto produced = instance_.produced[block];
    const auto consumed = instance_.consumed[block];
    touched_ += static_cast<int64_t>(produced.size() + consumed.size());
    for (const int t : produced) {
      const int* row = readers + static_cast<size_t>(t) * devices;
      const int all = all_readers_.data()[t];
      from_change += cost[t] * ((row[from] > 0 ? 1 : 0) - (row[from] < all ? 1 : 0));
      to_change += cost[t] * ((row[to] < all ? 1 : 0) - (row[to] > 0 ? 1 : 0));
    }
    for (const int t : consumed) {
      const int* row = readers + static_cast<size_t>(t) * devices;
      const int home = device_.data()[instance_.producer.data()[t]];
      const int all = all_readers_.data()[t];
      if (home == from) {
        from_change += row[from] == all ? cost[t] : 0;  // it has to leave from now on
        to_change += row[to] == 0 ? cost[t] : 0;
      } else if (home == to) {
        from_change -= row[from] == 1 ? cost[t] : 0;
        to_change -= row[to] == all - 1 ? cost[t] : 0;
      } else {
        from_change -= row[from] == 1 ? cost[t] : 0;
        to_change += row[to] == 0 ? cost[t] : 0;
      }
    }
    Change change;
    change.from = (pays_.data()[from] != 0 ? from_change : 0) - time_.data()[from][block];
    change.to = (pays_.data()[to] != 0 ? to_change : 0) + time_.data()[to][block];
    return change;
  }

  /// Moves the block; loads, but not energies, follow.
  void move(int block, int to, const Change& change) {
    const size_t devices = static_cast<size_t>(devices_);
    const int from = device_.data()[block];
    for (const int t : instance_.consumed[block]) {
      int* row = readers_.data() + static_cast<size_t>(t) * devices;
      --row[from];
      ++row[to];
    }
    device_.data()[block] = to;
    load_.data()[from] += change.from;
    load_.data()[to] += change.to;
    memory_.data()[from] -= instance_.memory.data()[block];
    memory_.data()[to] += instance_.memory.data()[block];
    leave(block, from);
    join(block, to);
  }

  bool may_run(int block, int device) const { return time_.data()[device][block] < kForbidden; }

  int any_block() {
    if (random_.below(3) == 0 && !members_.data()[largest_].empty()) {
      const std::vector<int>& list = members_.data()[largest_];
      return list.data()[random_.below(static_cast<int>(list.size()))];
    }
    return random_.below(instance_.blocks);
  }

  /// The device of a random neighbour, or one time in five any.
  int any_target(int block) {
    const auto near = neighbours_[block];
    if (near.empty() || random_.below(5) == 0) return random_.below(devices_);
    return device_.data()[near[static_cast<size_t>(random_.below(static_cast<int>(near.size())))]];
  }

  void propose() {
    int block = 0, to = 0;
    for (int tries = 0;; ++tries) {
      block = any_block();
      to = any_target(block);
      if (to != device_.data()[block]) break;
      if (tries == 8) return;
    }
    if (!may_run(block, to)) return;
    const int choice = random_.below(16);
    if (choice < kSingles[static_cast<size_t>(options_.swaps)])
      propose_single(block, to);
    else if (choice < kClumps[static_cast<size_t>(options_.swaps)])
      propose_clump(block, to);
    else
      propose_swap(block, to);
  }

  /// The largest sum of powers that a proposal may lead to.
  double any_limit() { return sum_ * threshold_.data()[random_.word() & (kQuantiles - 1)]; }

  void propose_single(int block, int to) {
    const int from = device_.data()[block];
    const Change change = change_of(block, from, to);
    const double bytes = instance_.memory.data()[block];
    const double from_power =
        energy_of(load_.data()[from] + change.from, memory_.data()[from] - bytes, static_cast<size_t>(from));
    const double to_power =
        energy_of(load_.data()[to] + change.to, memory_.data()[to] + bytes, static_cast<size_t>(to));
    const double sum = sum_ + ((from_power - power_.data()[from]) + (to_power - power_.data()[to]));
    if (!(sum <= any_limit())) return;
    move(block, to, change);
    accept(from, to, from_power, to_power, sum);
  }

  void accept(int from, int to, double from_power, double to_power, double sum) {
    power_.data()[from] = from_power;
    power_.data()[to] = to_power;
    sum_ = sum;
    if (from == largest_ || to_power > power_.data()[largest_] || from_power > power_.data()[largest_]) find_largest();
    if (load_.data()[largest_] < best_value_ || best_overflow_ > 0) consider();
  }

  /// Keeps the state when it is the best one met.
  void consider() {
    double value = 0;
    for (int d = 0; d < devices_; ++d) value = std::max(value, load_.data()[d]);
    const double overflow = overflow_now();
    if (overflow > best_overflow_ || (overflow == best_overflow_ && !(value < best_value_))) return;
    keep_best();
  }

  void keep_best() {
    best_device_ = device_;
    best_value_ = 0;
    for (const double load : load_) best_value_ = std::max(best_value_, load);
    best_overflow_ = overflow_now();
  }

  /// From here on the best split that fits counts. While none does, the one met before stays.
  void forget_best() {
    if (overflow_now() > 0) return;
    keep_best();
  }

  /// A proposal of several moves between two devices, and what to go back to when it is not accepted.
  struct Proposal {
    int a = 0, b = 0;
    double limit = 0;
    double a_load = 0, b_load = 0;
    double a_memory = 0, b_memory = 0;
  };
  Proposal begin(int a, int b) {
    return {a, b, any_limit(), load_.data()[a], load_.data()[b], memory_.data()[a], memory_.data()[b]};
  }

  void apply(int block, int to) {
    trail_.emplace_back(block, device_.data()[block]);
    move(block, to, change_of(block, device_.data()[block], to));
  }

  /// Accepts the moves on the trail if they lead low enough.
  bool settles(const Proposal& proposal) {
    touched_ += kTouchesPerTest;
    const int a = proposal.a, b = proposal.b;
    const double a_power = energy_of(load_.data()[a], memory_.data()[a], static_cast<size_t>(a));
    const double b_power = energy_of(load_.data()[b], memory_.data()[b], static_cast<size_t>(b));
    const double sum = sum_ + ((a_power - power_.data()[a]) + (b_power - power_.data()[b]));
    if (!(sum <= proposal.limit)) return false;
    trail_.clear();
    accept(a, b, a_power, b_power, sum);
    return true;
  }

  void take_back(const Proposal& proposal) {
    while (!trail_.empty()) {
      const auto [block, back] = trail_.back();
      touched_ += static_cast<int64_t>(instance_.consumed[block].size()) + 2;
      move(block, back, {});
      trail_.pop_back();
    }
    load_.data()[proposal.a] = proposal.a_load;
    load_.data()[proposal.b] = proposal.b_load;
    memory_.data()[proposal.a] = proposal.a_memory;
    memory_.data()[proposal.b] = proposal.b_memory;
  }

  /// Moves the block, and blocks of its device around it, one by one until the proposal is accepted or they are `size`.
  bool move_clump(int block, int to, int size, const Proposal& proposal) {
    const int from = device_.data()[block];
    clump_.assign(1, block);
    apply(block, to);
    if (settles(proposal)) return true;
    for (size_t i = 0; i < clump_.size() && static_cast<int>(clump_.size()) < size; ++i) {
      const auto near = neighbours_[clump_[i]];
      const size_t shift = near.empty() ? 0 : static_cast<size_t>(random_.below(static_cast<int>(near.size())));
      const size_t look = std::min<size_t>(near.size(), kLargestClump);  // a tensor may have thousands of readers
      for (size_t j = 0; j < look && static_cast<int>(clump_.size()) < size; ++j) {
        const int next = near[(j + shift) % near.size()];
        if (device_.data()[next] != from || !may_run(next, to)) continue;
        clump_.push_back(next);
        apply(next, to);
        if (settles(proposal)) return true;
      }
    }
    return false;
  }

  void propose_clump(int block, int to) {
    const Proposal proposal = begin(device_.data()[block], to);
    const int size = 2 + random_.below(2 + random_.below(kLargestClump - 2));
    if (!move_clump(block, to, size, proposal)) take_back(proposal);
  }

  /// A block of the device, rather one with a neighbour elsewhere: one from the middle would leave two new cuts behind.
  int partner_on(int device) {
    const std::vector<int>& list = members_.data()[device];
    int block = 0;
    for (int tries = 0; tries < kPartnerTries; ++tries) {
      block = list.data()[random_.below(static_cast<int>(list.size()))];
      const auto near = neighbours_[block];
      if (near.empty()) break;
      const int other = near[static_cast<size_t>(random_.below(static_cast<int>(near.size())))];
      if (device_.data()[other] != device) break;
    }
    return block;
  }

  void propose_swap(int block, int to) {
    const int from = device_.data()[block];
    if (members_.data()[to].empty()) return;
    const int other = partner_on(to);
    if (!may_run(other, from)) return;
    const Proposal proposal = begin(from, to);
    if (options_.swaps == Swaps::blocks || random_.below(2) == 0) {
      apply(block, to);
      apply(other, from);
      if (!settles(proposal)) take_back(proposal);
    } else {  // a clump, half the time as large as it may be: a whole piece of a device leaves no new cut behind
      const int size = random_.below(2) == 0 ? kLargestClump : 1 + random_.below(kSmallClump);
      if (!move_clump(block, to, size, proposal) && !move_clump(other, from, kLargestClump, proposal))
        take_back(proposal);
    }
  }

  const Instance& instance_;
  AnnealOptions options_;
  Random& random_;
  Work& work_;
  int devices_;
  std::vector<const double*> time_;            // [device]
  std::vector<char> pays_;                     // [device]
  std::vector<double> capacity_;               // [device]
  Rows neighbours_;                            // [block]: with repetitions, a neighbour by two tensors is twice as near
  std::vector<int> all_readers_;               // [tensor]
  std::vector<int> device_;                    // [block]
  std::vector<int> readers_;                   // (tensor, device)
  std::vector<std::vector<int>> members_;      // [device]
  std::vector<int> slot_;                      // [block]: its place in members_
  std::vector<double> load_, memory_, power_;  // [device]
  double sum_ = 0;                             // of power_
  double scale_ = 1;
  double penalty_ = 1;
  double over_load_ = 1;  // what bytes over capacity count as
  int exponent_ = 8;
  int largest_ = 0;  // device with the largest power
  std::array<double, kQuantiles> quantile_{};
  std::array<double, kQuantiles> threshold_{};
  std::vector<std::pair<int, int>> trail_;  // (block, where it was)
  std::vector<int> clump_;
  int64_t touched_ = 0;
  int64_t percent_ = 100;  // CacheClass
  std::vector<int> best_device_;
  double best_value_ = kForbidden;
  double best_overflow_ = kForbidden;
};

}  // namespace

Split anneal(const Instance& instance, const Split& start, const AnnealOptions& options, Random& random, Work& work) {
  return Annealer(instance, start, options, random, work).run();
}

}  // namespace mpc::place
