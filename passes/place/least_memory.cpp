#include "passes/place/least_memory.h"

#include <algorithm>
#include <optional>
#include <span>

#include "passes/place/evaluate.h"
#include "passes/place/search/linear.h"
#include "passes/place/stage_anneal.h"
#include "passes/place/stages.h"

namespace mpc::place {
namespace {

constexpr uint64_t kSeed = 20;
constexpr int kOrderBlocks = 4'000;  // (order, block)
constexpr int kLeastOrders = 2;
constexpr int kMostOrders = 40;
constexpr int kRandomShare = 4;
constexpr int64_t kMostStates = 5'000;       // sets of devices; beyond, stages take them in the cluster's order
constexpr int64_t kAnnealWork = 10'000'000;  // blocks and tensors that evaluations look at
constexpr int64_t kMostEvaluations = 20'000;
constexpr double kRounding = 1e-9;

/// Bytes of a stage as evaluate() counts them; blocks join one at a time, from the last to the first.
class StageBytes {
 public:
  explicit StageBytes(const Instance& instance)
      : instance_(instance),
        is_inside_(static_cast<size_t>(instance.blocks), 0),
        readers_(static_cast<size_t>(instance.tensors()), 0) {}

  void join(int block) {
    const auto b = static_cast<size_t>(block);
    is_inside_[b] = 1;
    fixed_ += instance_.memory[b];
    kept_ += instance_.kept[b];
    kept_for_weights_ += instance_.kept_for_weights[b];
    working_ = std::max(working_, instance_.working[b]);
    for (const int t : instance_.produced[block]) {
      if (readers_[static_cast<size_t>(t)] > 0) receive(t, -1);
    }
    for (const int t : instance_.consumed[block]) {
      const bool is_home = is_inside_[static_cast<size_t>(instance_.producer[static_cast<size_t>(t)])] != 0;
      if (readers_[static_cast<size_t>(t)]++ == 0 && !is_home) receive(t, 1);
    }
  }
  /// Takes the blocks out again: all that joined.
  template <typename Blocks>
  void clear(const Blocks& blocks) {
    for (const int block : blocks) {
      is_inside_[static_cast<size_t>(block)] = 0;
      for (const int t : instance_.consumed[block]) readers_[static_cast<size_t>(t)] = 0;
    }
    fixed_ = kept_ = kept_for_weights_ = received_ = copied_ = working_ = 0;
  }

  double bytes(const Held& held) const {
    return fixed_ + copied_ + working_ + held.bytes(kept_ + received_, kept_for_weights_);
  }
  /// What every stage with these blocks and more holds.
  double least() const { return fixed_ + kept_ + working_; }

 private:
  void receive(int t, double sign) {
    received_ += sign * instance_.received[static_cast<size_t>(t)];
    copied_ += sign * instance_.copied[static_cast<size_t>(t)];
  }

  const Instance& instance_;
  std::vector<char> is_inside_;  // [block]
  std::vector<int> readers_;     // [tensor]: inside
  double fixed_ = 0;
  double kept_ = 0;              // per micro-batch in flight
  double kept_for_weights_ = 0;  // per micro-batch that owes its weight gradients
  double received_ = 0;          // in flight, of what other stages made
  double copied_ = 0;
  double working_ = 0;
};

/// best[j][s] = min over i < j and kinds of max(best[i][s - one device], share of the blocks i..j-1).
class MemorySplit {
 public:
  MemorySplit(const Instance& instance, const DeviceSets& sets, const std::vector<int>& order, double bound)
      : instance_(instance),
        sets_(sets),
        order_(order),
        bound_(bound),
        states_(static_cast<size_t>(sets.count())),
        best_((order.size() + 1) * states_, kForbidden),
        step_(best_.size()),
        stage_(instance) {}

  /// Devices of the instance for its blocks, when their largest share is below the bound.
  std::optional<std::vector<int>> run() {
    for (const DeviceKind& kind : instance_.kinds) largest_capacity_ = std::max(largest_capacity_, kind.memory);
    best_[0] = 0;
    for (size_t end = 1; end <= order_.size(); ++end) walk(end);
    return trace_back();
  }

 private:
  struct Step {
    size_t begin = 0;
    int kind = 0;
  };

  void walk(size_t end) {
    size_t begin = end;
    while (begin > 0) {
      const int block = order_[--begin];
      stage_.join(block);
      if (stage_.least() > bound_ * largest_capacity_) break;
      for (size_t kind = 0; kind < instance_.kinds.size(); ++kind) extend(begin, end, static_cast<int>(kind));
    }
    stage_.clear(std::span(order_).subspan(begin, end - begin));
  }

  void extend(size_t begin, size_t end, int kind) {
    for (int state = 0; state + sets_.stride(kind) <= sets_.full(); ++state) {
      const double before = best_[begin * states_ + static_cast<size_t>(state)];
      if (before == kForbidden || !sets_.has_room(state, kind)) continue;
      const double capacity = instance_.kinds[static_cast<size_t>(kind)].memory;
      const double share = std::max(before, stage_.bytes(sets_.held(state)) / capacity);
      const size_t cell = end * states_ + static_cast<size_t>(state + sets_.stride(kind));
      if (share >= bound_ || share >= best_[cell] || is_forbidden(begin, end, kind)) continue;
      best_[cell] = share;
      step_[cell] = {begin, kind};
    }
  }

  /// Pins: does a block of the run belong elsewhere?
  bool is_forbidden(size_t begin, size_t end, int kind) const {
    const std::vector<double>& time = instance_.kinds[static_cast<size_t>(kind)].time;
    return std::any_of(order_.begin() + static_cast<std::ptrdiff_t>(begin),
                       order_.begin() + static_cast<std::ptrdiff_t>(end),
                       [&](int block) { return time[static_cast<size_t>(block)] == kForbidden; });
  }

  std::optional<std::vector<int>> trace_back() const {
    size_t end = order_.size();
    size_t state = states_;
    for (size_t s = 0; s < states_; ++s) {
      if (!sets_.is_final(static_cast<int>(s))) continue;
      if (state == states_ || best_[end * states_ + s] < best_[end * states_ + state]) state = s;
    }
    if (state == states_ || best_[end * states_ + state] == kForbidden) return std::nullopt;
    std::vector<int> device(order_.size(), 0);
    while (end > 0) {
      const Step& step = step_[end * states_ + state];
      state -= static_cast<size_t>(sets_.stride(step.kind));
      const int next = sets_.next_device(static_cast<int>(state), step.kind);
      while (end > step.begin) device[static_cast<size_t>(order_[--end])] = next;
    }
    return device;
  }

  const Instance& instance_;
  const DeviceSets& sets_;
  const std::vector<int>& order_;
  double bound_;
  size_t states_;
  std::vector<double> best_;  // (position, state)
  std::vector<Step> step_;    // (position, state)
  StageBytes stage_;
  double largest_capacity_ = 0;
};

bool has_many_states(const Instance& instance) {
  int64_t states = 1;
  for (const DeviceKind& kind : instance.kinds) states = std::min<int64_t>(states * (kind.count + 1), kMostStates + 1);
  return states > kMostStates;
}

class MemorySearch {
 public:
  explicit MemorySearch(const Problem& problem)
      : problem_(problem), stages_(problem, Alike::in_cost, Pricing::middle_link, true), random_(kSeed) {}

  std::vector<int> run() {
    const Instance& instance = stages_.instance();
    const int orders = std::clamp(kOrderBlocks / std::max(1, instance.blocks), kLeastOrders, kMostOrders);
    for (int round = 0; round < orders; ++round) {
      const std::vector<int> order =
          depth_first_order(instance, {}, round < 2 ? 0 : kRandomShare, round % 2 == 0, random_);
      for (int devices = 1; devices <= problem_.device_count; ++devices) split(order, devices);
    }
    if (best_.empty()) return {};
    anneal();
    return fastest();
  }

 private:
  void split(const std::vector<int>& order, int devices) {
    const Instance& instance = stages_.instance();
    std::vector<int> in_order(stages_.devices().size());
    for (size_t i = 0; i < in_order.size(); ++i) in_order[i] = static_cast<int>(i);
    DeviceSets sets =
        has_many_states(instance) ? DeviceSets(instance, stages_.numbers_of(in_order)) : DeviceSets(instance);
    sets.limit(devices, devices);
    sets.set_microbatches(problem_.microbatches, problem_.held);
    const auto found = MemorySplit(instance, sets, order, share_).run();
    if (!found) return;
    std::vector<int> device;
    for (const int number : *found) device.push_back(stages_.devices()[static_cast<size_t>(number)]);
    take(std::move(device));
  }

  void take(std::vector<int> device_of_group) {
    const double share = largest_share(problem_, device_of_block(device_of_group));
    if (share >= share_) return;
    share_ = share;
    best_ = std::move(device_of_group);
  }

  std::vector<int> device_of_block(const std::vector<int>& device_of_group) const {
    return stages_.device_of_block(stages_.numbers_of(device_of_group));
  }

  void anneal() {
    const auto once = static_cast<int64_t>(problem_.pinned.size() + problem_.tensors.size());
    const auto evaluations = static_cast<int>(std::min(kMostEvaluations, kAnnealWork / once));
    if (share_ <= least_share_bound(problem_) * (1 + kRounding)) return;
    take(anneal_stages(problem_, stages_, best_, {.goal = AnnealGoal::memory, .evaluations = evaluations}, random_));
  }

  /// Of the splits that hold no more, the fastest.
  std::vector<int> fastest() const {
    Problem roomy = problem_;
    for (int64_t& bytes : roomy.capacity_bytes)
      bytes = static_cast<int64_t>(static_cast<double>(bytes) * share_ * (1 + kRounding));
    const std::optional<Stages> found = split_in_stages(roomy, {.is_quick = true});
    const bool is_as_small = found && largest_share(problem_, found->device_of_block) <= share_ * (1 + kRounding);
    return is_as_small ? found->device_of_block : device_of_block(best_);
  }

  const Problem& problem_;
  StageInstance stages_;
  Random random_;
  std::vector<int> best_;      // [group]: device of the problem
  double share_ = kForbidden;  // of `best_`
};

}  // namespace

double least_share_bound(const Problem& problem) {
  double largest_capacity = 0;
  double capacities = 0;
  for (const int64_t bytes : problem.capacity_bytes) {
    largest_capacity = std::max(largest_capacity, static_cast<double>(bytes));
    capacities += static_cast<double>(bytes);
  }
  double together = 0;
  double most = 0;
  for (size_t b = 0; b < problem.pinned.size(); ++b) {
    const int64_t kept = problem.is_training ? problem.kept_bytes[b] + problem.input_bytes[b] : 0;
    const auto held = static_cast<double>(problem.persistent_bytes[b] + kept);
    together += held;
    most = std::max(most, held + static_cast<double>(problem.is_training ? 0 : problem.working_bytes[b]));
  }
  return std::max(together / capacities, most / largest_capacity);
}

std::vector<int> split_for_memory(const Problem& problem) {
  return MemorySearch(problem).run();
}

}  // namespace mpc::place
