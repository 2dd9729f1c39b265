#include "passes/place/search/forced_cuts.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace mpc::place {
namespace {

constexpr int kMostBlocks = 20'000;
constexpr int kMostRounds = 50;  // of joining; to stop early weakens the bound, nothing else
constexpr int kBisections = 30;
constexpr double kLittle = 1e-6;         // of the gap: not worth a search
constexpr double kSlack = 1 + 1e-11;     // sums of loads are exact only up to rounding
constexpr double kSameValue = 1 - 1e-9;  // a split that is better by less is not another one

/// One attempt to refute that some split has all loads below `bound`.
class Refutation {
 public:
  Refutation(const Instance& instance, double bound)
      : instance_(instance), bound_(bound * kSlack), part_(static_cast<size_t>(instance.blocks)) {
    std::iota(part_.begin(), part_.end(), 0);
    memory_ = instance.memory;
    sent_.assign(part_.size(), 0);
    received_.assign(part_.size(), 0);
    for (const DeviceKind& kind : instance.kinds) time_.push_back(kind.time);
    for (int block = 0; block < instance.blocks; ++block) has_failed_ = has_failed_ || !runs_somewhere(block);
  }

  bool run() {
    for (int round = 0; round < kMostRounds && !has_failed_; ++round) {
      has_changed_ = false;
      force_cuts();
      for (int t = 0; t < instance_.tensors() && !has_failed_; ++t) join_over(t);
      if (!has_changed_) break;
    }
    if (has_failed_) return true;
    force_cuts();
    return has_failed_ || too_many_parts() || too_many_seconds();
  }

  /// The number of each block's part.
  std::vector<int> groups() {
    std::vector<int> number(part_.size(), -1), result;
    int parts = 0;
    for (int block = 0; block < instance_.blocks; ++block) {
      int& mine = number[static_cast<size_t>(root(block))];
      if (mine < 0) mine = parts++;
      result.push_back(mine);
    }
    return result;
  }

 private:
  int root(int block) {
    while (part_[static_cast<size_t>(block)] != block) {
      int& up = part_[static_cast<size_t>(block)];
      up = part_[static_cast<size_t>(up)];
      block = up;
    }
    return block;
  }

  /// Is a device of the kind below the bound and within its bytes, with transfers counted where it pays for them?
  bool can_take(size_t kind, double time, double transfers, double memory) const {
    const DeviceKind& device = instance_.kinds[kind];
    const double load = device.pays_transfers ? time + transfers : time;
    return device.count > 0 && load < bound_ && memory <= memory_limit(device.memory);
  }
  /// May the part be on some device below the bound, when it pays `more` for its tensors?
  bool runs_with(int part, double more) const {
    for (size_t kind = 0; kind < time_.size(); ++kind) {
      if (can_take(kind, time_[kind][static_cast<size_t>(part)], more, memory_[static_cast<size_t>(part)])) return true;
    }
    return false;
  }
  bool runs_somewhere(int part) const { return runs_with(part, 0); }
  /// What the part pays for its tensors for certain.
  double forced(int part) const { return sent_[static_cast<size_t>(part)] + received_[static_cast<size_t>(part)]; }

  /// May both be on one device? Besides each other neither can have there what it is cut from for certain.
  bool may_share(int a, int b) const {
    const size_t i = static_cast<size_t>(a), j = static_cast<size_t>(b);
    const double more = sent_[i] + sent_[j] + std::max(received_[i], received_[j]);  // both may receive the same
    for (size_t kind = 0; kind < time_.size(); ++kind) {
      if (can_take(kind, time_[kind][i] + time_[kind][j], more, memory_[i] + memory_[j])) return true;
    }
    return false;
  }

  /// What every part pays for tensors that are cut for certain, from the parts as they are.
  void force_cuts() {
    std::vector<double> sent(part_.size(), 0), received(part_.size(), 0);
    std::vector<int> last(part_.size(), -1);  // [part]: the last tensor it was seen to read
    is_sent_.assign(static_cast<size_t>(instance_.tensors()), 0);
    total_forced_ = 0;
    for (int t = 0; t < instance_.tensors(); ++t) {
      const int from = root(instance_.producer[static_cast<size_t>(t)]);
      const double cost = instance_.cost[static_cast<size_t>(t)];
      for (const int reader : instance_.consumers[t]) {
        const int to = root(reader);
        if (to == from || std::exchange(last[static_cast<size_t>(to)], t) == t || may_share(from, to)) continue;
        received[static_cast<size_t>(to)] += cost;
        if (std::exchange(is_sent_[static_cast<size_t>(t)], 1) != 0) continue;
        sent[static_cast<size_t>(from)] += cost;
        total_forced_ += 2 * cost;  // at both ends; more receivers may share a device
      }
    }
    has_changed_ = has_changed_ || sent != sent_ || received != received_;
    sent_ = std::move(sent);
    received_ = std::move(received);
    for (int block = 0; block < instance_.blocks && !has_failed_; ++block)
      has_failed_ = root(block) == block && !runs_with(block, forced(block));
  }

  /// Joins what the tensor must not leave, or who must not receive it.
  void join_over(int t) {
    const double cost = instance_.cost[static_cast<size_t>(t)];
    const int producer = instance_.producer[static_cast<size_t>(t)];
    const int from = root(producer);
    if (is_sent_[static_cast<size_t>(t)] == 0 && !runs_with(from, forced(from) + cost)) {
      for (const int reader : instance_.consumers[t]) join(producer, reader);
      return;
    }
    for (const int reader : instance_.consumers[t]) {
      const int to = root(reader), home = root(producer);
      if (to == home || !may_share(home, to)) continue;  // in the latter case it is counted, or will be
      if (!runs_with(to, forced(to) + cost)) join(producer, reader);
    }
  }

  void join(int a, int b) {
    const int into = root(a), part = root(b);
    if (into == part) return;
    has_changed_ = true;
    part_[static_cast<size_t>(part)] = into;
    memory_[static_cast<size_t>(into)] += memory_[static_cast<size_t>(part)];
    for (std::vector<double>& time : time_) time[static_cast<size_t>(into)] += time[static_cast<size_t>(part)];
    // Both pay for certain, but may receive the same. Never less than before: what was apart stays so, or join_over
    // would count a tensor that is in these sums already a second time.
    const size_t i = static_cast<size_t>(into), p = static_cast<size_t>(part);
    sent_[i] += sent_[p];
    received_[i] = std::max(received_[i], received_[p]);
    has_failed_ = has_failed_ || !runs_somewhere(into);
  }

  /// Parts that one kind alone can take: of j * devices + 1 some device has j + 1, and at least the smallest ones.
  bool too_many_parts() {
    std::vector<std::vector<double>> seconds(time_.size()), bytes(time_.size());
    for (int block = 0; block < instance_.blocks; ++block) {
      if (root(block) != block) continue;
      int kinds = 0;
      size_t only = 0;
      for (size_t kind = 0; kind < time_.size(); ++kind) {
        const size_t b = static_cast<size_t>(block);
        if (!can_take(kind, time_[kind][b], forced(block), memory_[b])) continue;
        ++kinds;
        only = kind;
      }
      if (kinds != 1) continue;
      seconds[only].push_back(time_[only][static_cast<size_t>(block)]);
      bytes[only].push_back(memory_[static_cast<size_t>(block)]);
    }
    for (size_t kind = 0; kind < time_.size(); ++kind) {
      const DeviceKind& device = instance_.kinds[kind];
      if (fullest(seconds[kind], device.count) >= bound_ * kSlack ||
          fullest(bytes[kind], device.count) > memory_limit(device.memory) * kSlack)
        return true;
    }
    return false;
  }

  /// What the fullest of the devices has at least.
  static double fullest(std::vector<double>& of_part, int devices) {
    std::sort(of_part.begin(), of_part.end(), std::greater<>());
    const std::ptrdiff_t count = devices, parts = static_cast<std::ptrdiff_t>(of_part.size());
    double most = 0;
    for (std::ptrdiff_t j = 1; count > 0 && j * count < parts; ++j) {
      const auto last = of_part.begin() + j * count + 1;
      most = std::max(most, std::accumulate(last - j - 1, last, 0.0));
    }
    return most;
  }

  bool too_many_seconds() const {
    if (instance_.kinds.size() > 1) return false;
    const std::vector<double>& time = instance_.kinds[0].time;
    return std::accumulate(time.begin(), time.end(), total_forced_) >= instance_.kinds[0].count * bound_;
  }

  const Instance& instance_;
  double bound_;
  std::vector<int> part_;                  // [block]: towards the block that stands for its part
  std::vector<double> memory_;             // [part]
  std::vector<std::vector<double>> time_;  // [kind][part]
  std::vector<double> sent_, received_;    // [part]: cost of tensors that it sends or receives for certain
  std::vector<char> is_sent_;              // [tensor]: for certain
  double total_forced_ = 0;
  bool has_changed_ = false;
  bool has_failed_ = false;
};

}  // namespace

double forced_cuts_bound(const Instance& instance, double least, double value) {
  if (instance.blocks > kMostBlocks || instance.overlaps_transfers || !(value < kForbidden)) return least;
  if (Refutation(instance, value * kSameValue).run()) return value;
  double low = least, high = value;
  if (!Refutation(instance, least + (value - least) * kLittle).run()) return least;  // mostly, and it takes one
  for (int i = 0; i < kBisections && low < high; ++i) {
    const double middle = low + (high - low) / 2;
    (Refutation(instance, middle).run() ? low : high) = middle;
  }
  return low;
}

std::vector<int> forced_groups(const Instance& instance, double value) {
  Refutation refutation(instance, value);
  refutation.run();
  return refutation.groups();
}

}  // namespace mpc::place
