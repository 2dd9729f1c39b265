#include "tests/schedule/exact.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <vector>

// Branching of Giffler and Thompson (1960): of all tasks that could be next, take the one that would end first; its
// device does that one or another one that could begin before that end. Some order that is optimal is reached, and the
// bound on kept micro-batches keeps it so: only forward tasks keep more, and one that may begin may also begin before
// what the device does instead.

namespace mpc::test {
namespace {

constexpr double kNoise = 1e-9;
enum Kind { kForward, kBackward, kWeight, kKinds };

class Exact {
 public:
  Exact(const Pipeline& pipeline, int microbatches, double limit_s, int most_kept, int64_t most_states)
      : pipeline_(pipeline),
        stages_(static_cast<int>(pipeline.stages.size())),
        microbatches_(microbatches),
        limit_s_(limit_s + kNoise),
        most_kept_(most_kept),
        states_left_(most_states) {}

  std::optional<bool> run() {
    State state;
    state.done.resize(static_cast<size_t>(stages_));
    state.free_s.assign(static_cast<size_t>(stages_), 0);
    state.forward_end_s.resize(static_cast<size_t>(stages_));
    state.backward_end_s.resize(static_cast<size_t>(stages_));
    const bool found = search(state);
    if (found) return true;
    if (states_left_ < 0) return std::nullopt;
    return false;
  }

 private:
  struct State {
    std::vector<std::array<int, kKinds>> done;       // [stage] tasks by kind
    std::vector<double> free_s;                      // [stage]
    std::vector<std::vector<double>> forward_end_s;  // [stage][micro-batch]
    std::vector<std::vector<double>> backward_end_s;
  };
  struct Option {
    int stage = 0;
    Kind kind = kForward;
    double start_s = 0;
    double end_s = 0;
  };

  double seconds(int stage, Kind kind) const {
    const StageSeconds& s = pipeline_.stages[static_cast<size_t>(stage)];
    return kind == kForward ? s.forward : kind == kBackward ? s.backward : s.weight;
  }

  // When what the stage's next task of the kind reads has arrived; nothing while it has not been made.
  std::optional<double> arrival_s(const State& state, int stage, Kind kind) const {
    const auto s = static_cast<size_t>(stage);
    const int i = state.done[s][kind];
    if (i == microbatches_) return std::nullopt;
    const auto made = [&](const std::vector<double>& ends) -> std::optional<double> {
      if (static_cast<int>(ends.size()) <= i) return std::nullopt;
      return ends[static_cast<size_t>(i)] + pipeline_.transfer_s;
    };
    if (kind == kWeight) return state.done[s][kBackward] > i ? std::optional(0.0) : std::nullopt;
    if (kind == kForward) {
      if (state.done[s][kForward] - state.done[s][kWeight] >= most_kept_) return std::nullopt;
      return stage == 0 ? std::optional(0.0) : made(state.forward_end_s[s - 1]);
    }
    if (state.done[s][kForward] <= i) return std::nullopt;
    return stage + 1 == stages_ ? std::optional(0.0) : made(state.backward_end_s[s + 1]);
  }

  std::optional<Option> option(const State& state, int stage, Kind kind) const {
    const std::optional<double> arrived = arrival_s(state, stage, kind);
    if (!arrived) return std::nullopt;
    const double start = std::max(*arrived, state.free_s[static_cast<size_t>(stage)]);
    return Option{stage, kind, start, start + seconds(stage, kind)};
  }

  // No device is done before its work is, and the last micro-batch has to go all the way back to the first stage.
  bool can_end_in_time(const State& state) const {
    for (int stage = 0; stage < stages_; ++stage) {
      const auto s = static_cast<size_t>(stage);
      double work = 0;
      for (const Kind kind : {kForward, kBackward, kWeight})
        work += (microbatches_ - state.done[s][kind]) * seconds(stage, kind);
      if (state.free_s[s] + work > limit_s_) return false;
      double back = 0;  // from the end of the stage's backward task to the end of the step
      for (int before = stage - 1; before >= 0; --before) back += pipeline_.transfer_s + seconds(before, kBackward);
      const double last_weight = seconds(0, kWeight);
      const int backwards = microbatches_ - state.done[s][kBackward];
      if (backwards > 0 && state.free_s[s] + backwards * seconds(stage, kBackward) + back + last_weight > limit_s_)
        return false;
      double there = 0;  // from the end of the stage's forward task to that of its backward task
      for (int later = stage + 1; later < stages_; ++later)
        there += 2 * pipeline_.transfer_s + seconds(later, kForward) + seconds(later, kBackward);
      const int forwards = microbatches_ - state.done[s][kForward];
      const double after = there + seconds(stage, kBackward) + back + last_weight;
      if (forwards > 0 && state.free_s[s] + forwards * seconds(stage, kForward) + after > limit_s_) return false;
    }
    return true;
  }

  // Of states with the same tasks done, the later ones are of no use. Ends before a reader is free are all the same.
  bool is_dominated(const State& state) {
    std::vector<int> key;
    std::vector<double> moments = state.free_s;
    for (int stage = 0; stage < stages_; ++stage) {
      const auto s = static_cast<size_t>(stage);
      key.insert(key.end(), state.done[s].begin(), state.done[s].end());
      if (stage + 1 < stages_) {
        for (int i = state.done[s + 1][kForward]; i < state.done[s][kForward]; ++i)
          moments.push_back(
              std::max(state.free_s[s + 1], state.forward_end_s[s][static_cast<size_t>(i)] + pipeline_.transfer_s));
      }
      if (stage > 0) {
        for (int i = state.done[s - 1][kBackward]; i < state.done[s][kBackward]; ++i)
          moments.push_back(
              std::max(state.free_s[s - 1], state.backward_end_s[s][static_cast<size_t>(i)] + pipeline_.transfer_s));
      }
    }
    auto& seen = seen_[key];
    const auto dominates = [](const std::vector<double>& a, const std::vector<double>& b) {
      return std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) { return x <= y + kNoise; });
    };
    if (std::ranges::any_of(seen, [&](const auto& other) { return dominates(other, moments); })) return true;
    std::erase_if(seen, [&](const auto& other) { return dominates(moments, other); });
    seen.push_back(std::move(moments));
    return false;
  }

  bool search(const State& state) {
    if (!can_end_in_time(state) || is_dominated(state)) return false;
    if (--states_left_ < 0) return false;
    std::vector<Option> options;
    for (int stage = 0; stage < stages_; ++stage) {
      for (const Kind kind : {kForward, kBackward, kWeight}) {
        if (const auto next = option(state, stage, kind)) options.push_back(*next);
      }
    }
    if (options.empty()) {  // all is done, or kept micro-batches leave no way
      return std::ranges::all_of(state.done, [&](const auto& done) { return done[kWeight] == microbatches_; });
    }
    const Option first = *std::ranges::min_element(options, {}, &Option::end_s);
    std::erase_if(options, [&](const Option& o) {
      return o.stage != first.stage || (o.start_s >= first.end_s && o.kind != first.kind);
    });
    std::ranges::stable_sort(options, {}, &Option::start_s);
    return std::ranges::any_of(options, [&](const Option& o) { return search(after(state, o)); });
  }

  static State after(State state, const Option& option) {
    const auto s = static_cast<size_t>(option.stage);
    ++state.done[s][option.kind];
    state.free_s[s] = option.end_s;
    if (option.kind == kForward) state.forward_end_s[s].push_back(option.end_s);
    if (option.kind == kBackward) state.backward_end_s[s].push_back(option.end_s);
    return state;
  }

  const Pipeline& pipeline_;
  int stages_;
  int microbatches_;
  double limit_s_;
  int most_kept_;
  int64_t states_left_;
  std::map<std::vector<int>, std::vector<std::vector<double>>> seen_;
};

}  // namespace

std::optional<bool> has_schedule_within(const Pipeline& pipeline, int microbatches, double limit_s, int most_kept,
                                        int64_t most_states) {
  return Exact(pipeline, microbatches, limit_s, most_kept, most_states).run();
}

}  // namespace mpc::test
