#include "passes/place/search/ideals.h"

#include <algorithm>
#include <cstring>

#include "passes/place/search/stage_load.h"

namespace mpc::place {
namespace {

constexpr int64_t kIdealUnits = 150;  // one ideal is made and looked up; and a unit for every block that may be next
constexpr int64_t kPairUnits = 40;    // one pair of ideals is visited
constexpr size_t kMostCells = 40'000'000;  // (ideal, state): half a gigabyte with the steps

/// Every ideal, smallest first, and which block leads from one to the next smaller ones.
class IdealTable {
 public:
  IdealTable(const Instance& instance, size_t most_ideals, Work& work)
      : instance_(instance),
        most_(most_ideals),
        work_(work),
        words_((static_cast<size_t>(instance.blocks) + 63) / 64) {}

  bool build() {
    slots_.assign(1024, -1);
    bits_.assign(words_, 0);
    insert_slot(0);
    std::vector<uint64_t> next(words_);
    std::vector<std::vector<std::pair<int, int>>> unused;
    for (size_t ideal = 0; ideal < size(); ++ideal) {
      if (size() > most_ || !work_.spend(kIdealUnits + instance_.blocks)) return false;
      for (int block = 0; block < instance_.blocks; ++block) {
        if (has(ideal, block) || !is_ready(ideal, block)) continue;
        std::copy_n(bits_.begin() + static_cast<std::ptrdiff_t>(ideal * words_), words_, next.begin());
        next[static_cast<size_t>(block) / 64] |= uint64_t{1} << (block % 64);
        links_.push_back({find_or_add(next), static_cast<int>(ideal), block});
      }
    }
    std::stable_sort(links_.begin(), links_.end(), [](const Link& a, const Link& b) { return a.above < b.above; });
    size_t link = 0;
    for (size_t ideal = 0; ideal < size(); ++ideal) {
      first_.push_back(link);
      while (link < links_.size() && links_[link].above == static_cast<int>(ideal)) ++link;
    }
    first_.push_back(link);
    return true;
  }

  struct Link {
    int above;  // the ideal with the block
    int below;  // without it
    int block;
  };
  size_t size() const { return words_ == 0 ? 1 : bits_.size() / words_; }
  const Link* begin_of(size_t ideal) const { return links_.data() + first_[ideal]; }
  const Link* end_of(size_t ideal) const { return links_.data() + first_[ideal + 1]; }
  bool has(size_t ideal, int block) const {
    return (bits_.data()[ideal * words_ + static_cast<size_t>(block) / 64] >> (block % 64) & 1) != 0;
  }

 private:
  bool is_ready(size_t ideal, int block) const {
    for (const int need : instance_.before[block]) {
      if (!has(ideal, need)) return false;
    }
    return true;
  }

  static uint64_t hash_of(const uint64_t* bits, size_t words) {
    uint64_t hash = 0;
    for (size_t i = 0; i < words; ++i) hash = mix_bits(hash ^ bits[i]);
    return hash;
  }

  void insert_slot(int ideal) {
    size_t slot = hash_of(bits_.data() + static_cast<size_t>(ideal) * words_, words_) & (slots_.size() - 1);
    while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = ideal;
  }

  int find_or_add(const std::vector<uint64_t>& bits) {
    size_t slot = hash_of(bits.data(), words_) & (slots_.size() - 1);
    for (; slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      const uint64_t* other = bits_.data() + static_cast<size_t>(slots_[slot]) * words_;
      if (std::equal(bits.begin(), bits.end(), other)) return slots_[slot];
    }
    const int ideal = static_cast<int>(size());
    bits_.insert(bits_.end(), bits.begin(), bits.end());
    if (2 * size() > slots_.size()) {
      slots_.assign(slots_.size() * 2, -1);
      for (int i = 0; i <= ideal; ++i) insert_slot(i);
    } else {
      slots_[slot] = ideal;
    }
    return ideal;
  }

  const Instance& instance_;
  size_t most_;
  Work& work_;
  size_t words_;
  std::vector<uint64_t> bits_;
  std::vector<int> slots_;
  std::vector<Link> links_;
  std::vector<size_t> first_;
};

class IdealSplit {
 public:
  IdealSplit(const Instance& instance, DeviceSets& sets, double bound, size_t most_ideals, Work& work)
      : instance_(instance),
        sets_(sets),
        bound_(bound),
        work_(work),
        table_(instance, most_ideals, work),
        stage_(instance) {}

  IdealsResult run() {
    states_ = static_cast<size_t>(sets_.count());
    if (!table_.build()) return {work_.is_over() ? IdealsEnd::out_of_work : IdealsEnd::too_many, {}};
    if (table_.size() * states_ > kMostCells) return {IdealsEnd::too_many, {}};
    sets_.set_bound(bound_);
    sum_ideals();
    best_.assign(table_.size() * states_, kForbidden);
    step_.resize(best_.size());
    visited_.assign(table_.size(), -1);
    is_read_above_.assign(static_cast<size_t>(instance_.tensors()), 0);
    is_made_above_ = is_read_above_;
    readers_.assign(static_cast<size_t>(instance_.tensors()), 0);
    is_live_.assign(table_.size(), 0);
    is_live_[0] = 1;
    best_[0] = 0;
    for (size_t ideal = 1; ideal < table_.size(); ++ideal) {
      find_states(ideal);
      if (any_valid_) walk(ideal);
      if (work_.is_over()) return {IdealsEnd::out_of_work, {}};
    }
    return {IdealsEnd::done, trace_back()};
  }

 private:
  struct Step {
    int below = -1;
    int kind = 0;
  };
  struct Frame {
    size_t ideal;
    const IdealTable::Link* next;
    StageLoad<kFewKinds>::Totals before;
    double above;
    int block;  // that led here
  };

  void sum_ideals() {
    time_.assign(table_.size(), 0);
    memory_.assign(table_.size(), 0);
    for (size_t ideal = 1; ideal < table_.size(); ++ideal) {
      const IdealTable::Link& link = *table_.begin_of(ideal);
      time_[ideal] = time_[static_cast<size_t>(link.below)] + sets_.reference_time(link.block);
      memory_[ideal] = memory_[static_cast<size_t>(link.below)] + instance_.memory[static_cast<size_t>(link.block)];
    }
  }

  void find_states(size_t ideal) {
    is_valid_.assign(states_, 0);
    any_valid_ = false;
    for (int state = 1; state <= sets_.full(); ++state) {
      if (!sets_.fits(state, time_[ideal], memory_[ideal])) continue;
      is_valid_[static_cast<size_t>(state)] = 1;
      any_valid_ = true;
    }
  }

  void walk(size_t top) {
    int64_t pairs = 0;
    look_above(top);
    path_.push_back({top, table_.begin_of(top), {}, 0, -1});
    while (!path_.empty()) {
      Frame& frame = path_.back();
      if (frame.next == table_.end_of(frame.ideal)) {
        if (frame.block >= 0) take_back(frame.block, frame.before, frame.above);
        path_.pop_back();
        continue;
      }
      const IdealTable::Link& link = *frame.next++;
      const size_t below = static_cast<size_t>(link.below);
      if (visited_.data()[below] == static_cast<int>(top)) continue;
      visited_.data()[below] = static_cast<int>(top);
      ++pairs;
      const StageLoad<kFewKinds>::Totals before = stage_.totals();
      const double above = above_;
      stage_.add(link.block);
      add_above(link.block);
      if (stage_.is_beyond(bound_, above_)) {
        take_back(link.block, before, above);
        continue;
      }
      if (is_live_.data()[below] != 0) extend(below, top);
      path_.push_back({below, table_.begin_of(below), before, above, link.block});
    }
    work_.spend(pairs * kPairUnits);
  }

  // What the stage exchanges with blocks above the ideal only grows on the way down, so it counts towards the bound.

  void look_above(size_t top) {
    for (int t = 0; t < instance_.tensors(); ++t) {
      char is_read_above = 0;
      for (const int reader : instance_.consumers[t]) is_read_above |= table_.has(top, reader) ? 0 : 1;
      is_read_above_.data()[t] = is_read_above;
      is_made_above_.data()[t] = table_.has(top, instance_.producer.data()[t]) ? 0 : 1;
    }
  }
  void add_above(int block) {
    for (const int t : instance_.produced[block]) {
      if (is_read_above_.data()[t] != 0) above_ += instance_.cost.data()[t];
    }
    for (const int t : instance_.consumed[block]) {
      if (is_made_above_.data()[t] != 0 && readers_.data()[t]++ == 0) above_ += instance_.cost.data()[t];
    }
  }
  void take_back(int block, const StageLoad<kFewKinds>::Totals& before, double above) {
    stage_.remove(block, before);
    for (const int t : instance_.consumed[block]) readers_.data()[t] -= is_made_above_.data()[t];
    above_ = above;
  }

  void extend(size_t below, size_t top) {
    for (int kind = 0; kind < static_cast<int>(instance_.kinds.size()); ++kind) {
      const double load = stage_.load(kind);
      if (!(load < bound_)) continue;
      for (int state = 0; state + sets_.stride(kind) <= sets_.full(); ++state) {
        const double before = best_.data()[below * states_ + static_cast<size_t>(state)];
        if (before == kForbidden || !sets_.has_room(state, kind)) continue;
        const size_t next = static_cast<size_t>(state + sets_.stride(kind));
        if (is_valid_.data()[next] == 0 || !stage_.holds(kind, sets_.in_flight(state))) continue;
        const double value = std::max(before, load);
        double& best = best_.data()[top * states_ + next];
        if (value >= best) continue;
        best = value;
        step_.data()[top * states_ + next] = {static_cast<int>(below), kind};
        is_live_.data()[top] = 1;
      }
    }
  }

  std::optional<Split> trace_back() const {
    size_t ideal = table_.size() - 1;  // the largest: all blocks
    size_t state = states_;
    for (size_t s = 0; s < states_; ++s) {
      if (!sets_.is_final(static_cast<int>(s))) continue;
      if (state == states_ || best_[ideal * states_ + s] < best_[ideal * states_ + state]) state = s;
    }
    if (state == states_ || best_[ideal * states_ + state] == kForbidden) return std::nullopt;
    Split split;
    split.value = best_[ideal * states_ + state];
    split.device_of_block.assign(static_cast<size_t>(instance_.blocks), 0);
    while (ideal != 0) {
      const Step& step = step_[ideal * states_ + state];
      state -= static_cast<size_t>(sets_.stride(step.kind));
      const size_t below = static_cast<size_t>(step.below);
      const int device = sets_.next_device(static_cast<int>(state), step.kind);
      for (int block = 0; block < instance_.blocks; ++block) {
        if (table_.has(ideal, block) && !table_.has(below, block))
          split.device_of_block[static_cast<size_t>(block)] = device;
      }
      ideal = below;
    }
    return split;
  }

  const Instance& instance_;
  DeviceSets& sets_;
  double bound_;
  Work& work_;
  IdealTable table_;
  StageLoad<kFewKinds> stage_;
  size_t states_ = 0;
  std::vector<double> time_, memory_;  // [ideal]
  std::vector<double> best_;           // (ideal, state)
  std::vector<Step> step_;             // (ideal, state)
  std::vector<int> visited_;           // [ideal]: by the walk from which
  std::vector<char> is_live_;          // [ideal]: some state is reached
  std::vector<char> is_valid_;         // [state], at the ideal being filled
  bool any_valid_ = false;
  std::vector<Frame> path_;
  std::vector<char> is_read_above_, is_made_above_;  // [tensor]: outside the ideal that the walk began at
  std::vector<int> readers_;                         // [tensor] made above: readers in the stage
  double above_ = 0;
};

}  // namespace

IdealsResult split_ideals(const Instance& instance, DeviceSets& sets, double bound, int most_ideals, Work& work) {
  return IdealSplit(instance, sets, bound, static_cast<size_t>(most_ideals), work).run();
}

}  // namespace mpc::place
