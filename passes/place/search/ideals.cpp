#include "passes/place/search/ideals.h"

#include <algorithm>
#include <array>
#include <utility>

#include "passes/place/search/stage_load.h"

namespace mpc::place {
namespace {

constexpr int64_t kIdealUnits = 150;         // one ideal is made and looked up
constexpr int64_t kPairUnits = 55;           // one pair of ideals is visited
constexpr int64_t kStateUnits = 3;           // a pair is tried with one set of devices
constexpr int64_t kPairsAtOnce = 10'000;     // before the work is asked
constexpr size_t kMostCells = 40'000'000;    // (ideal, state): half a gigabyte with the steps
constexpr size_t kMostComparable = 1 << 20;  // pairs of states

/// The ideals met so far, and which block leads from one to the next larger ones.
class IdealTable {
 public:
  struct Link {
    int above;  // the ideal with the block
    int block;
  };
  struct Range {
    size_t first;
    size_t end;
  };

  IdealTable(const Instance& instance, const DeviceSets& sets)
      : instance_(instance), sets_(sets), words_((static_cast<size_t>(instance.blocks) + 63) / 64) {
    slots_.assign(1024, -1);
    bits_.assign(words_, 0);
    made_.push_back({});
    insert_slot(0);
  }

  size_t size() const { return made_.size(); }
  int blocks(int ideal) const { return made_[static_cast<size_t>(ideal)].blocks; }
  double time(int ideal) const { return made_.data()[ideal].time; }  // of the first kind
  double memory(int ideal) const { return made_.data()[ideal].memory; }
  bool has(int ideal, int block) const {
    return (bits_.data()[static_cast<size_t>(ideal) * words_ + static_cast<size_t>(block) / 64] >> (block % 64) & 1) !=
           0;
  }
  const Link& link(size_t i) const { return links_.data()[i]; }

  /// The links to all ideals with one block more.
  Range links(int ideal) {
    if (made_[static_cast<size_t>(ideal)].links.end == kUnknown) find_links(ideal);
    return made_[static_cast<size_t>(ideal)].links;
  }

 private:
  static constexpr size_t kUnknown = static_cast<size_t>(-1);

  struct Made {
    int from = -1;  // the ideal that it was first made of
    int block = -1;
    int blocks = 0;
    double time = 0;
    double memory = 0;
    uint64_t hash = 0;
    Range links{0, kUnknown};
  };

  /// What may come next: what could before the last block did, and what waited for it alone.
  void find_links(int ideal) {
    ready_.clear();
    const Made& made = made_[static_cast<size_t>(ideal)];
    if (made.from < 0) {
      for (int block = 0; block < instance_.blocks; ++block) {
        if (instance_.before[block].empty()) ready_.push_back(block);
      }
    } else {
      const Range earlier = made_[static_cast<size_t>(made.from)].links;
      for (size_t i = earlier.first; i < earlier.end; ++i) {
        if (links_[i].block != made.block) ready_.push_back(links_[i].block);
      }
      for (const int block : instance_.after[made.block]) {
        if (is_ready(ideal, block)) ready_.push_back(block);
      }
    }
    const size_t first = links_.size();
    for (const int block : ready_) links_.push_back({find_or_add(ideal, block), block});
    made_[static_cast<size_t>(ideal)].links = {first, links_.size()};
  }

  bool is_ready(int ideal, int block) const {
    const auto needs = instance_.before[block];
    return std::all_of(needs.begin(), needs.end(), [&](int need) { return has(ideal, need); });
  }

  static uint64_t key(int block) { return mix_bits(static_cast<uint64_t>(block) + 1); }

  void insert_slot(int ideal) {
    size_t slot = made_[static_cast<size_t>(ideal)].hash & (slots_.size() - 1);
    while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = ideal;
  }

  int find_or_add(int from, int block) {
    const size_t end = bits_.size();
    bits_.resize(end + words_);  // the new one, taken back when it is there already
    uint64_t* bits = bits_.data() + end;
    std::copy_n(bits_.data() + static_cast<size_t>(from) * words_, words_, bits);
    bits[static_cast<size_t>(block) / 64] |= uint64_t{1} << (block % 64);
    const Made& smaller = made_[static_cast<size_t>(from)];
    const uint64_t hash = smaller.hash ^ key(block);
    for (size_t slot = hash & (slots_.size() - 1); slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      const int other = slots_[slot];
      if (made_[static_cast<size_t>(other)].hash != hash ||
          !std::equal(bits, bits + words_, bits_.data() + static_cast<size_t>(other) * words_))
        continue;
      bits_.resize(end);
      return other;
    }
    const int ideal = static_cast<int>(size());
    made_.push_back({from, block, smaller.blocks + 1, smaller.time + sets_.reference_time(block),
                     smaller.memory + instance_.memory[static_cast<size_t>(block)], hash});
    if (2 * size() > slots_.size()) {
      slots_.assign(slots_.size() * 2, -1);
      for (int i = 0; i < ideal; ++i) insert_slot(i);
    }
    insert_slot(ideal);
    return ideal;
  }

  const Instance& instance_;
  const DeviceSets& sets_;
  size_t words_;
  std::vector<uint64_t> bits_;
  std::vector<Made> made_;
  std::vector<int> slots_;
  std::vector<Link> links_;
  std::vector<int> ready_;
};

class IdealSplit {
 public:
  IdealSplit(const Instance& instance, DeviceSets& sets, double least, double bound, size_t most_ideals, Work& work)
      : instance_(instance),
        sets_(sets),
        least_(least),
        bound_(bound),
        most_ideals_(most_ideals),
        work_(work),
        table_(instance, sets),
        stage_(instance),
        states_(static_cast<size_t>(sets.count())),
        comparable_(sets.fewer_are_better() && states_ * states_ <= kMostComparable) {}

  IdealsResult run() {
    sets_.set_bound(bound_);
    is_read_below_.assign(static_cast<size_t>(instance_.tensors()), 0);
    is_made_below_ = is_read_below_;
    readers_.assign(static_cast<size_t>(instance_.tensors()), 0);
    reached_.resize(static_cast<size_t>(instance_.blocks) + 1);
    reach(0, 0, least_, {});
    for (std::vector<int>& ideals : reached_) {
      for (size_t i = 0; i < ideals.size(); ++i) {  // of one size: they lead to larger ones only
        if (const IdealsEnd end = walk(ideals[i]); end != IdealsEnd::done) return {end, {}};
      }
    }
    return {IdealsEnd::done, trace_back()};
  }

 private:
  struct Step {
    int below = -1;
    int kind = 0;
  };
  struct Frame {
    size_t next, end;  // links
    StageLoad<kFewKinds>::Totals before;
    double below;
    int block;  // that led here
  };
  struct Begin {
    int state;
    double value;
  };

  double& best(int ideal, size_t state) {
    return best_.data()[static_cast<size_t>(row_of_.data()[ideal]) * states_ + state];
  }

  void reach(int ideal, size_t state, double value, const Step& step) {
    if (row_of_.size() < table_.size()) row_of_.resize(table_.size(), -1);
    int& row = row_of_[static_cast<size_t>(ideal)];
    if (row < 0) {
      row = static_cast<int>(best_.size() / states_);
      best_.resize(best_.size() + states_, kForbidden);
      step_.resize(best_.size());
      reached_[static_cast<size_t>(table_.blocks(ideal))].push_back(ideal);
    }
    double& known = best(ideal, state);
    if (value >= known) return;
    known = value;
    step_[static_cast<size_t>(row) * states_ + state] = step;
  }

  /// Where stages of each kind may begin: what was reached, without what no split needs because as little is reached
  /// with fewer devices.
  void find_begins(int ideal) {
    for (std::vector<Begin>& list : begins_) list.clear();
    useful_.clear();
    for (size_t s = 0; s < states_; ++s) {
      const int state = static_cast<int>(s);
      const double value = best(ideal, s);
      if (value == kForbidden) continue;
      const auto is_at_least_as_good = [&](const Begin& other) {
        return other.value <= value && sets_.is_part_of(other.state, state);
      };
      if (comparable_ && std::any_of(useful_.begin(), useful_.end(), is_at_least_as_good)) continue;
      useful_.push_back({state, value});
      for (int kind = 0; kind < kinds(); ++kind) {
        if (state + sets_.stride(kind) <= sets_.full() && sets_.has_room(state, kind))
          begins_[static_cast<size_t>(kind)].push_back({state, value});
      }
    }
  }

  int kinds() const { return static_cast<int>(instance_.kinds.size()); }

  /// All stages that begin above the ideal.
  IdealsEnd walk(int bottom) {
    int64_t pairs = 0, tried = 0;
    find_begins(bottom);
    look_below(bottom);
    const auto links = table_.links(bottom);
    path_.push_back({links.first, links.end, {}, 0, -1});
    while (!path_.empty()) {
      Frame& frame = path_.back();
      if (frame.next == frame.end) {
        if (frame.block >= 0) take_back(frame.block, frame.before, frame.below);
        path_.pop_back();
        continue;
      }
      const IdealTable::Link link = table_.link(frame.next++);
      if (visited_.size() < table_.size()) visited_.resize(table_.size(), -1);
      if (std::exchange(visited_.data()[link.above], bottom) == bottom) continue;
      const StageLoad<kFewKinds>::Totals before = stage_.totals();
      const double below = below_;
      stage_.add(link.block);
      add_below(link.block);
      if (++pairs == kPairsAtOnce) {
        if (!work_.spend(pairs * kPairUnits + std::exchange(tried, 0) * kStateUnits)) return IdealsEnd::out_of_work;
        pairs = 0;
      }
      if (is_beyond()) {
        take_back(link.block, before, below);
        continue;
      }
      tried += extend(bottom, link.above);
      const size_t known = table_.size();
      const auto next = table_.links(link.above);
      work_.spend(static_cast<int64_t>(table_.size() - known) * kIdealUnits);
      if (table_.size() > most_ideals_ || best_.size() > kMostCells) return IdealsEnd::too_many;
      path_.push_back({next.first, next.end, before, below, link.block});
    }
    return work_.spend(pairs * kPairUnits + tried * kStateUnits) ? IdealsEnd::done : IdealsEnd::out_of_work;
  }

  bool is_beyond() const {
    for (int kind = 0; kind < kinds(); ++kind) {
      if (!begins_[static_cast<size_t>(kind)].empty() && !stage_.is_beyond(kind, bound_, below_)) return false;
    }
    return true;
  }

  // What the stage exchanges with blocks below the ideal only grows on the way up, so it counts towards the bound.

  void look_below(int bottom) {
    for (int t = 0; t < instance_.tensors(); ++t) {
      char is_read_below = 0;
      for (const int reader : instance_.consumers[t]) is_read_below |= table_.has(bottom, reader) ? 1 : 0;
      is_read_below_.data()[t] = is_read_below;
      is_made_below_.data()[t] = table_.has(bottom, instance_.producer.data()[t]) ? 1 : 0;
    }
  }
  void add_below(int block) {
    for (const int t : instance_.produced[block]) {
      if (is_read_below_.data()[t] != 0) below_ += instance_.cost.data()[t];
    }
    for (const int t : instance_.consumed[block]) {
      if (is_made_below_.data()[t] != 0 && readers_.data()[t]++ == 0) below_ += instance_.cost.data()[t];
    }
  }
  void take_back(int block, const StageLoad<kFewKinds>::Totals& before, double below) {
    stage_.remove(block, before);
    for (const int t : instance_.consumed[block]) readers_.data()[t] -= is_made_below_.data()[t];
    below_ = below;
  }

  /// Lets the stage end at `top`. @return how many sets of devices were tried.
  int64_t extend(int bottom, int top) {
    int64_t tried = 0;
    const double time = table_.time(top), memory = table_.memory(top);
    for (int kind = 0; kind < kinds(); ++kind) {
      const std::vector<Begin>& begins = begins_.data()[static_cast<size_t>(kind)];
      if (begins.empty()) continue;
      const double load = stage_.load(kind);
      if (!(load < bound_)) continue;
      tried += static_cast<int64_t>(begins.size());
      for (const Begin& begin : begins) {
        const int next = begin.state + sets_.stride(kind);
        if (!sets_.fits(next, time, memory) || !sets_.fits(next, time, memory, cut(top)) ||
            !stage_.holds(kind, sets_.held(begin.state)))
          continue;
        reach(top, static_cast<size_t>(next), std::max(begin.value, load), {bottom, kind});
      }
    }
    return tried;
  }

  /// The cost of the tensors between the ideal and the rest.
  double cut(int ideal) {
    if (cut_.size() < table_.size()) cut_.resize(table_.size(), -1);
    double& sum = cut_[static_cast<size_t>(ideal)];
    if (sum >= 0) return sum;
    sum = 0;
    for (int t = 0; t < instance_.tensors(); ++t) {
      const bool is_made_below = table_.has(ideal, instance_.producer.data()[t]);
      for (const int reader : instance_.consumers[t]) {
        if (table_.has(ideal, reader) == is_made_below) continue;
        sum += instance_.cost.data()[t];
        break;
      }
    }
    return sum;
  }

  std::optional<Split> trace_back() {
    if (reached_.back().empty()) return std::nullopt;
    int ideal = reached_.back().front();  // all blocks
    size_t state = states_;
    for (size_t s = 0; s < states_; ++s) {
      if (!sets_.is_final(static_cast<int>(s))) continue;
      if (state == states_ || best(ideal, s) < best(ideal, state)) state = s;
    }
    if (state == states_ || best(ideal, state) == kForbidden) return std::nullopt;
    Split split;
    split.value = best(ideal, state);
    split.device_of_block.assign(static_cast<size_t>(instance_.blocks), 0);
    while (ideal != 0) {
      const Step& step = step_[static_cast<size_t>(row_of_[static_cast<size_t>(ideal)]) * states_ + state];
      state -= static_cast<size_t>(sets_.stride(step.kind));
      const int device = sets_.next_device(static_cast<int>(state), step.kind);
      for (int block = 0; block < instance_.blocks; ++block) {
        if (table_.has(ideal, block) && !table_.has(step.below, block))
          split.device_of_block[static_cast<size_t>(block)] = device;
      }
      ideal = step.below;
    }
    return split;
  }

  const Instance& instance_;
  DeviceSets& sets_;
  double least_;
  double bound_;
  size_t most_ideals_;
  Work& work_;
  IdealTable table_;
  StageLoad<kFewKinds> stage_;
  size_t states_;
  bool comparable_;                                   // a set of devices is better than one that contains it
  std::vector<std::vector<int>> reached_;             // [blocks]: ideals of so many where a stage may end
  std::vector<int> row_of_;                           // [ideal]: its row, or -1 while no stage ends there
  std::vector<double> best_;                          // (row, state)
  std::vector<Step> step_;                            // (row, state)
  std::vector<double> cut_;                           // [ideal], below 0 while nothing asked
  std::vector<int> visited_;                          // [ideal]: by the walk from which
  std::array<std::vector<Begin>, kFewKinds> begins_;  // [kind], of the walk
  std::vector<Begin> useful_;
  std::vector<Frame> path_;
  std::vector<char> is_read_below_, is_made_below_;  // [tensor]: inside the ideal that the walk began at
  std::vector<int> readers_;                         // [tensor] made below: readers in the stage
  double below_ = 0;
};

}  // namespace

IdealsResult split_ideals(const Instance& instance, DeviceSets& sets, double least, double bound, int most_ideals,
                          Work& work) {
  return IdealSplit(instance, sets, least, bound, static_cast<size_t>(most_ideals), work).run();
}

}  // namespace mpc::place
