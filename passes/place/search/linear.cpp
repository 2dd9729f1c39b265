#include "passes/place/search/linear.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "passes/place/search/run_load.h"

namespace mpc::place {
namespace {

constexpr size_t kSomeKinds = 16;  // sums of as many are copied with every block

constexpr int64_t kStepUnits = 14;   // a stage begins one cut earlier
constexpr int64_t kStateUnits = 4;   // and one set of devices is tried there
constexpr double kRounding = 1e-12;  // of sums of differences, relative to the sum of all

/// [position]: the cost of the tensors between the blocks before it and the others. O(consumers).
std::vector<double> crossing_costs(const Instance& instance, const std::vector<int>& order) {
  const size_t n = order.size();
  std::vector<int> position(n);
  for (size_t i = 0; i < n; ++i) position[static_cast<size_t>(order[i])] = static_cast<int>(i);
  std::vector<double> crossing(n + 1, 0);  // differences first, then sums
  for (int t = 0; t < instance.tensors(); ++t) {
    int first = position[static_cast<size_t>(instance.producer[static_cast<size_t>(t)])];
    int last = first;
    for (const int block : instance.consumers[t]) {
      first = std::min(first, position[static_cast<size_t>(block)]);
      last = std::max(last, position[static_cast<size_t>(block)]);
    }
    crossing[static_cast<size_t>(first) + 1] += instance.cost[static_cast<size_t>(t)];
    crossing[static_cast<size_t>(last) + 1] -= instance.cost[static_cast<size_t>(t)];
  }
  for (size_t i = 1; i <= n; ++i) crossing[i] += crossing[i - 1];
  return crossing;
}

template <int kMost>
class LinearSplit {
 public:
  LinearSplit(const Instance& instance, DeviceSets& sets, const std::vector<int>& order,
              const std::vector<char>& is_cut, double bound, Least least, Work& work)
      : instance_(instance),
        sets_(sets),
        order_(order),
        cuts_(cuts_of(is_cut)),
        bound_(bound),
        least_(least),
        work_(work),
        run_(instance, order, cuts_) {}

  std::optional<Split> run() {
    const size_t n = order_.size();
    states_ = static_cast<size_t>(sets_.count());
    sum_prefixes();
    row_of_.assign(n + 1, -1);
    open(0);
    reach(0, 0, 0, {});
    for (size_t next = 1; next < cuts_.size(); ++next) {
      const size_t end = static_cast<size_t>(cuts_[next]);
      run_.advance();
      find_states(end);
      if (valid_.empty()) continue;
      walk(end);
      if (work_.is_over()) return std::nullopt;
    }
    return trace_back();
  }

 private:
  struct Step {
    int begin = -1;  // where the stage begins
    int kind = 0;
  };
  struct StateRange {
    int first = 0;
    int last = 0;
  };

  static std::vector<int> cuts_of(const std::vector<char>& is_cut) {
    std::vector<int> cuts{0};
    for (size_t i = 1; i + 1 < is_cut.size(); ++i) {
      if (is_cut[i] != 0) cuts.push_back(static_cast<int>(i));
    }
    if (is_cut.size() > 1) cuts.push_back(static_cast<int>(is_cut.size()) - 1);
    return cuts;
  }

  void sum_prefixes() {
    time_.assign(order_.size() + 1, 0);
    memory_.assign(order_.size() + 1, 0);
    for (size_t i = 0; i < order_.size(); ++i) {
      time_[i + 1] = time_[i] + sets_.reference_time(order_[i]);
      memory_[i + 1] = memory_[i] + instance_.memory[static_cast<size_t>(order_[i])];
    }
    crossing_ = crossing_costs(instance_, order_);
    const double all = std::accumulate(instance_.cost.begin(), instance_.cost.end(), 0.0);
    for (double& cost : crossing_) cost = std::max(0.0, cost - all * kRounding);
  }

  void open(size_t end) {
    row_of_[end] = static_cast<int>(best_.size() / states_);
    best_.resize(best_.size() + states_, kForbidden);
    step_.resize(step_.size() + states_);
    reached_.push_back({sets_.full(), 0});
  }

  void reach(size_t end, size_t state, double value, const Step& step) {
    const auto row = static_cast<size_t>(row_of_[end]);
    best_[row * states_ + state] = value;
    step_[row * states_ + state] = step;
    StateRange& reached = reached_[row];
    reached.first = std::min(reached.first, static_cast<int>(state));
    reached.last = std::max(reached.last, static_cast<int>(state));
  }

  /// States that may be reached at `end`.
  void find_states(size_t end) {
    valid_.clear();
    for (int state = 1; state <= sets_.full(); ++state) {
      if (sets_.fits(state, time_[end], memory_[end], crossing_[end])) valid_.push_back(state);
    }
  }

  void walk(size_t end) {
    is_valid_.assign(states_, 0);
    for (const int state : valid_) is_valid_[static_cast<size_t>(state)] = 1;
    bool is_open = false;
    const int last = run_.begin();
    while (run_.begin() > 0) {
      run_.extend();
      if (run_.is_beyond(bound_)) break;
      const size_t begin = static_cast<size_t>(cuts_.data()[run_.begin()]);
      if (row_of_.data()[begin] >= 0) extend(begin, end, is_open);
    }
    work_.spend((last - run_.begin()) * kStepUnits + std::exchange(tried_, 0) * kStateUnits);
  }

  void extend(size_t begin, size_t end, bool& is_open) {
    for (int kind = 0; kind < static_cast<int>(instance_.kinds.size()); ++kind) {
      const double load = run_.load(kind);
      if (!(load < bound_)) continue;
      const size_t from = static_cast<size_t>(row_of_[begin]) * states_;
      const StateRange reached = reached_.data()[row_of_[begin]];
      tried_ += reached.last - reached.first + 1;
      for (int state = reached.first; state <= reached.last && state + sets_.stride(kind) <= sets_.full(); ++state) {
        const double before = best_.data()[from + static_cast<size_t>(state)];
        if (before == kForbidden || !sets_.has_room(state, kind)) continue;
        const size_t next = static_cast<size_t>(state + sets_.stride(kind));
        if (is_valid_[next] == 0 || !run_.holds(kind, sets_.held(state))) continue;
        if (!is_open) {
          open(end);
          is_open = true;
        }
        const size_t to = static_cast<size_t>(row_of_[end]) * states_ + next;
        const double value = least_ == Least::largest_load ? std::max(before, load) : before + run_.transfers();
        if (value >= best_[to]) continue;
        reach(end, next, value, {static_cast<int>(begin), kind});
      }
    }
  }

  std::optional<Split> trace_back() const {
    size_t end = order_.size();
    if (row_of_[end] < 0) return std::nullopt;
    const size_t last = static_cast<size_t>(row_of_[end]) * states_;
    size_t state = states_;
    for (size_t s = 0; s < states_; ++s) {
      if (!sets_.is_final(static_cast<int>(s))) continue;
      if (state == states_ || best_[last + s] < best_[last + state]) state = s;
    }
    if (state == states_ || best_[last + state] == kForbidden) return std::nullopt;
    Split split;
    split.value = best_[last + state];
    split.device_of_block.assign(order_.size(), 0);
    while (end > 0) {
      const Step& step = step_[static_cast<size_t>(row_of_[end]) * states_ + state];
      state -= static_cast<size_t>(sets_.stride(step.kind));
      const int device = sets_.next_device(static_cast<int>(state), step.kind);
      while (end > static_cast<size_t>(step.begin)) split.device_of_block[static_cast<size_t>(order_[--end])] = device;
    }
    return split;
  }

  const Instance& instance_;
  DeviceSets& sets_;
  const std::vector<int>& order_;
  std::vector<int> cuts_;  // positions where stages may end, 0 and the end
  double bound_;
  Least least_;
  Work& work_;
  RunLoad<kMost> run_;
  size_t states_ = 0;
  std::vector<double> time_, memory_;  // [position]: of the blocks before it
  std::vector<double> crossing_;       // [position]: no more than the tensors cost that go over it
  std::vector<int> row_of_;            // [position]: its row in best_, or -1 while nothing ends there
  std::vector<double> best_;           // (row, state)
  std::vector<Step> step_;             // (row, state)
  std::vector<StateRange> reached_;    // [row]: no state outside is reached
  std::vector<int> valid_;
  int64_t tried_ = 0;  // sets of devices, of the walk
  std::vector<char> is_valid_;
};

}  // namespace

std::optional<Split> split_linear(const Instance& instance, DeviceSets& sets, const std::vector<int>& order,
                                  const std::vector<char>& is_cut, double bound, Work& work, Least least) {
  sets.set_bound(bound);
  if (instance.kinds.size() <= kFewKinds)
    return LinearSplit<kFewKinds>(instance, sets, order, is_cut, bound, least, work).run();
  if (instance.kinds.size() <= kSomeKinds)
    return LinearSplit<kSomeKinds>(instance, sets, order, is_cut, bound, least, work).run();
  return LinearSplit<kMostKinds>(instance, sets, order, is_cut, bound, least, work).run();
}

std::optional<Split> split_linear_any(const Instance& instance, DeviceSets& sets, const std::vector<int>& order,
                                      const std::vector<char>& is_cut, double least, Work& work) {
  double total = 0;
  for (const double cost : instance.cost) total += 2 * cost;
  for (const DeviceKind& kind : instance.kinds) {
    for (const double time : kind.time) total += time == kForbidden ? 0 : time;
  }
  double excess = 0.02;
  for (double bound = least * (1 + excess); !work.is_over(); bound = least * (1 + excess)) {
    if (std::optional<Split> split = split_linear(instance, sets, order, is_cut, bound, work)) return split;
    if (bound > total) return std::nullopt;
    excess *= 3;
    if (!(least > 0)) least = std::max(total * 1e-6, 1e-300);
  }
  return std::nullopt;
}

std::vector<char> bucket_cuts(const Instance& instance, const DeviceSets& sets, const std::vector<int>& order,
                              int count) {
  const size_t n = order.size();
  const std::vector<double> crossing = crossing_costs(instance, order);
  std::vector<char> is_cut(n + 1, 0);
  double time = 0;
  size_t cheapest = 0;
  int bucket = 0;
  const double width = sets.total_time() / count;
  for (size_t i = 1; i <= n; ++i) {
    if (cheapest == 0 || crossing[i] < crossing[cheapest]) cheapest = i;
    time += sets.reference_time(order[i - 1]);
    if (time < width * (bucket + 1) && i < n) continue;
    is_cut[cheapest] = 1;
    cheapest = 0;
    bucket = width > 0 ? static_cast<int>(time / width) : bucket + 1;
  }
  return is_cut;
}

std::vector<int> breadth_first_order(const Instance& instance) {
  std::vector<int> missing, order;
  order.reserve(static_cast<size_t>(instance.blocks));
  for (int block = 0; block < instance.blocks; ++block) {
    missing.push_back(static_cast<int>(instance.before[block].size()));
    if (missing.back() == 0) order.push_back(block);
  }
  for (size_t i = 0; i < order.size(); ++i) {
    for (const int next : instance.after[order[i]]) {
      if (--missing[static_cast<size_t>(next)] == 0) order.push_back(next);
    }
  }
  return order;
}

std::vector<int> depth_first_order(const Instance& instance, const std::vector<int>& stage_of_block, int one_in_random,
                                   bool from_the_end, Random& random) {
  const Rows& before = from_the_end ? instance.after : instance.before;
  const Rows& after = from_the_end ? instance.before : instance.after;
  const size_t n = static_cast<size_t>(instance.blocks);
  int stages = 1;
  for (const int stage : stage_of_block) stages = std::max(stages, stage + 1);
  const auto stage_of = [&](int block) {
    if (stage_of_block.empty()) return size_t{0};
    const int stage = stage_of_block[static_cast<size_t>(block)];
    return static_cast<size_t>(from_the_end ? stages - 1 - stage : stage);
  };
  std::vector<int> missing(n);
  std::vector<std::vector<int>> ready(static_cast<size_t>(stages));
  for (int block = 0; block < instance.blocks; ++block) {
    missing[static_cast<size_t>(block)] = static_cast<int>(before[block].size());
    if (before[block].empty()) ready[stage_of(block)].push_back(block);
  }
  for (std::vector<int>& list : ready) {  // ids say nothing: the first blocks come in any order
    for (size_t i = list.size(); i > 1; --i)
      std::swap(list[i - 1], list[static_cast<size_t>(random.below(static_cast<int>(i)))]);
  }
  std::vector<int> order;
  order.reserve(n);
  for (size_t stage = 0; stage < ready.size();) {
    std::vector<int>& list = ready[stage];
    if (list.empty()) {
      ++stage;
      continue;
    }
    if (one_in_random > 0 && random.below(one_in_random) == 0) {
      std::swap(list.back(), list[static_cast<size_t>(random.below(static_cast<int>(list.size())))]);
    }
    const int block = list.back();
    list.pop_back();
    order.push_back(block);
    for (const int next : after[block]) {
      if (--missing[static_cast<size_t>(next)] == 0) ready[stage_of(next)].push_back(next);
    }
  }
  if (from_the_end) std::reverse(order.begin(), order.end());
  return order;
}

}  // namespace mpc::place
