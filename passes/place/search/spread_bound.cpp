#include "passes/place/search/spread_bound.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

namespace mpc::place {
namespace {

constexpr double kStep = 0.2;       // of a tensor's capacity, at most, in one go
constexpr double kLower = 0.8;      // of the gain that is asked for, when no row has it
constexpr int kFirstSources = 64;   // looked at before what is asked for is known
constexpr int64_t kPinUnits = 25;   // a block or a tensor's end on the way
constexpr double kSafe = 1 - 1e-9;  // for the rounding of sums

class SpreadBound {
 public:
  SpreadBound(const Instance& instance, Random& random, Work& work)
      : instance_(instance),
        random_(random),
        work_(work),
        devices_(instance.kinds[0].count),
        capacity_(instance.kinds[0].memory),
        time_(instance.kinds[0].time) {
    const size_t tensors = static_cast<size_t>(instance.tensors()), blocks = static_cast<size_t>(instance.blocks);
    total_ = std::accumulate(time_.begin(), time_.end(), 0.0);
    bound_ = total_ / devices_;
    length_.assign(tensors, 0);
    flow_.assign(tensors, 0);
    row_.assign(tensors, 0);
    for (size_t t = 0; t < tensors; ++t) length_[t] = 1 / (2 * instance.cost[t]);
    distance_.assign(blocks, 0);
    through_.assign(blocks, -1);
    parent_.assign(blocks, -1);
    carried_.assign(blocks, 0);
  }

  double run() {
    std::vector<int> order(static_cast<size_t>(instance_.blocks));
    std::iota(order.begin(), order.end(), 0);
    double asked = 0;
    for (int i = 0; i < kFirstSources && !work_.is_over(); ++i) {
      reach(random_.below(instance_.blocks));
      asked = std::max({asked, best_row(false).rate, best_row(true).rate});
    }
    if (!(asked > 0)) return bound_;
    const double first = asked;
    while (!work_.is_over() && asked > 1e-9 * first) {
      for (size_t i = order.size(); i > 1; --i)
        std::swap(order[i - 1], order[static_cast<size_t>(random_.below(static_cast<int>(i)))]);
      for (const int block : order) {
        if (work_.is_over()) break;
        for (;;) {
          reach(block);
          const Row time = best_row(false), bytes = best_row(true);
          const bool is_bytes = bytes.rate > time.rate;
          const Row& row = is_bytes ? bytes : time;
          if (row.rate < asked || work_.is_over()) break;
          add(row, is_bytes);
        }
      }
      asked *= kLower;
      settle();
    }
    settle();
    return bound_ * kSafe;
  }

 private:
  /// The nearest blocks of a source.
  struct Row {
    double rate = 0;  // gain for the length of its ways
    int count = 0;
    double gain = 0;
    double weight = 0;  // seconds or bytes of its blocks
  };

  /// Shortest ways from the block to all others: nearest_, distance_, and what leads there.
  void reach(int source) {
    queue_ = {};
    std::fill(distance_.begin(), distance_.end(), kForbidden);
    seen_.assign(static_cast<size_t>(instance_.tensors()), 0);
    nearest_.clear();
    distance_[static_cast<size_t>(source)] = 0;
    parent_[static_cast<size_t>(source)] = through_[static_cast<size_t>(source)] = -1;
    queue_.emplace(0, source);
    int64_t pins = instance_.blocks;
    while (!queue_.empty()) {
      const auto [far, block] = queue_.top();
      queue_.pop();
      if (far > distance_[static_cast<size_t>(block)]) continue;
      nearest_.push_back(block);
      const auto cross = [&](int t) {
        if (std::exchange(seen_[static_cast<size_t>(t)], 1) != 0) return;
        const double next = far + length_[static_cast<size_t>(t)];
        const auto arrive = [&](int other) {
          double& old = distance_[static_cast<size_t>(other)];
          if (!(next < old)) return;
          old = next;
          parent_[static_cast<size_t>(other)] = block;
          through_[static_cast<size_t>(other)] = t;
          queue_.emplace(next, other);
        };
        arrive(instance_.producer[static_cast<size_t>(t)]);
        for (const int reader : instance_.consumers[t]) arrive(reader);
        pins += static_cast<int64_t>(instance_.consumers[t].size()) + 1;
      };
      for (const int t : instance_.produced[block]) cross(t);
      for (const int t : instance_.consumed[block]) cross(t);
    }
    work_.spend(pins * kPinUnits);
  }

  double weight_of(int block, bool is_bytes) const {
    return is_bytes ? instance_.memory[static_cast<size_t>(block)] : time_[static_cast<size_t>(block)];
  }

  Row best_row(bool is_bytes) const {
    const double most = is_bytes ? capacity_ : bound_;
    Row best, row;
    double ways = 0;
    for (const int block : nearest_) {
      const double weight = weight_of(block, is_bytes);
      row.weight += weight;
      ways += weight * distance_[static_cast<size_t>(block)];
      ++row.count;
      row.gain = row.weight - most;
      if (row.gain <= 0 || !(ways > 0)) continue;
      row.rate = row.gain / ways;
      if (row.rate > best.rate) best = row;
    }
    return best;
  }

  /// Gives the row as much weight as adds kStep of some tensor's capacity.
  void add(const Row& row, bool is_bytes) {
    touched_.clear();
    for (int i = row.count; i-- > 0;) {
      const int block = nearest_[static_cast<size_t>(i)];
      const size_t b = static_cast<size_t>(block);
      const double carried = std::exchange(carried_[b], 0) + weight_of(block, is_bytes);
      if (parent_[b] < 0) continue;
      carried_[static_cast<size_t>(parent_[b])] += carried;
      double& on_tensor = row_[static_cast<size_t>(through_[b])];
      if (on_tensor == 0) touched_.push_back(through_[b]);
      on_tensor += carried;
    }
    double weight = kForbidden;
    for (const int t : touched_)
      weight = std::min(weight, kStep * 2 * instance_.cost[static_cast<size_t>(t)] / row_[static_cast<size_t>(t)]);
    for (const int t : touched_) {
      const size_t i = static_cast<size_t>(t);
      const double more = weight * std::exchange(row_[i], 0);
      flow_[i] += more;
      length_[i] *= 1 + more / (2 * instance_.cost[i]);
    }
    if (is_bytes) {
      bytes_gain_ += weight * row.gain;
    } else {
      time_gain_ += weight * row.weight;
      time_weight_ += weight;
    }
  }

  /// The bound that the weights so far give, when the fullest tensor is just full.
  void settle() {
    double fullest = 0;
    for (size_t t = 0; t < flow_.size(); ++t) fullest = std::max(fullest, flow_[t] / (2 * instance_.cost[t]));
    if (!(fullest > 0)) return;
    bound_ = std::max(bound_, (total_ + (time_gain_ + bytes_gain_) / fullest) / (devices_ + time_weight_ / fullest));
  }

  const Instance& instance_;
  Random& random_;
  Work& work_;
  int devices_;
  double capacity_;
  const std::vector<double>& time_;
  double total_ = 0;
  double bound_ = 0;
  std::vector<double> length_, flow_, row_;  // [tensor]; row_: weight of one row, 0 between rows
  std::vector<double> distance_, carried_;   // [block]
  std::vector<int> parent_, through_;        // [block]
  std::vector<int> nearest_, touched_;
  std::vector<char> seen_;  // [tensor]
  std::priority_queue<std::pair<double, int>, std::vector<std::pair<double, int>>, std::greater<>> queue_;
  double time_gain_ = 0, time_weight_ = 0, bytes_gain_ = 0;
};

}  // namespace

double spread_bound(const Instance& instance, Random& random, Work& work) {
  if (instance.kinds.size() != 1 || instance.overlaps_transfers || instance.tensors() == 0) return 0;
  const DeviceKind& kind = instance.kinds[0];
  if (!kind.pays_transfers || kind.count < 2 ||
      std::any_of(kind.time.begin(), kind.time.end(), [](double t) { return t == kForbidden; }))
    return 0;
  return SpreadBound(instance, random, work).run();
}

}  // namespace mpc::place
