#include "passes/place/linked_split.h"

#include <algorithm>

#include "passes/place/search/stage_load.h"

namespace mpc::place {
namespace {

constexpr int64_t kBlockUnits = 60;  // one block joins a stage
constexpr int64_t kWayUnits = 10;    // the load of a stage on a way
constexpr int64_t kStepUnits = 2;

void add(TensorMove& sum, const TensorMove& move, double sign) {
  sum.moves += sign * move.moves;
  sum.bytes += sign * move.bytes;
  sum.back_moves += sign * move.back_moves;
  sum.back_bytes += sign * move.back_bytes;
}

double seconds_of(const TensorMove& sum, const Connection& connection) {
  double seconds = 0;
  if (sum.moves > 0) seconds += sum.moves * connection.there.latency_s + sum.bytes / connection.there.bytes_per_second;
  if (sum.back_moves > 0)
    seconds += sum.back_moves * connection.back.latency_s + sum.back_bytes / connection.back.bytes_per_second;
  return seconds;
}

/// What the stage sends and receives; blocks join one at a time. Bytes are whole numbers, so sums lose nothing.
class StageTraffic {
 public:
  explicit StageTraffic(const LinkedInstance& linked)
      : instance_(linked.instance),
        moves_(linked.moves),
        is_inside_(static_cast<size_t>(instance_.blocks), 0),
        readers_(static_cast<size_t>(instance_.tensors()), 0) {}

  const TensorMove& received() const { return received_; }
  const TensorMove& sent() const { return sent_; }

  void join(int block) {
    is_inside_[static_cast<size_t>(block)] = 1;
    for (const int t : instance_.produced[block]) {
      const int inside = readers_[static_cast<size_t>(t)];
      if (inside > 0) add(received_, moves_[static_cast<size_t>(t)], -1);
      if (inside < all_readers(t)) add(sent_, moves_[static_cast<size_t>(t)], 1);
    }
    for (const int t : instance_.consumed[block]) {
      const bool is_home = is_inside_[static_cast<size_t>(instance_.producer[static_cast<size_t>(t)])] != 0;
      const int inside = ++readers_[static_cast<size_t>(t)];
      if (is_home && inside == all_readers(t)) add(sent_, moves_[static_cast<size_t>(t)], -1);
      if (!is_home && inside == 1) add(received_, moves_[static_cast<size_t>(t)], 1);
    }
  }
  void leave(int block) {
    is_inside_[static_cast<size_t>(block)] = 0;
    for (const int t : instance_.consumed[block]) --readers_[static_cast<size_t>(t)];
  }
  /// @pre every block that joined has left.
  void clear() {
    received_ = {};
    sent_ = {};
  }

 private:
  int all_readers(int t) const { return static_cast<int>(instance_.consumers[t].size()); }

  const Instance& instance_;
  const std::vector<TensorMove>& moves_;
  std::vector<char> is_inside_;  // [block]
  std::vector<int> readers_;     // [tensor]: inside
  TensorMove received_;
  TensorMove sent_;
};

class LinkedSplit {
 public:
  LinkedSplit(const LinkedInstance& linked, const DeviceSets& sets, const Routes& routes, const std::vector<int>& order,
              const std::vector<char>& is_cut, double bound, Work& work, Least least)
      : instance_(linked.instance),
        sets_(sets),
        routes_(routes),
        order_(order),
        is_cut_(is_cut),
        bound_(bound),
        work_(work),
        least_(least),
        stage_(linked.instance),
        traffic_(linked),
        borders_(routes.state_of_border.size()) {}

  std::optional<Split> run() {
    const size_t n = order_.size();
    row_of_.assign(n + 1, -1);
    open(0);
    for (size_t b = 0; b < borders_; ++b) {
      if (routes_.is_first[b] != 0) best_[b] = 0;
    }
    sum_prefixes();
    for (size_t end = 1; end <= n; ++end) {
      if (end < n && is_cut_[end] == 0) continue;
      if (!find_borders(end)) continue;
      walk(end);
      if (work_.is_over()) return std::nullopt;
    }
    return trace_back();
  }

 private:
  struct Step {
    int begin = -1;
    int border = 0;  // at `begin`
    int kind = 0;
  };

  void sum_prefixes() {
    time_.assign(order_.size() + 1, 0);
    memory_.assign(order_.size() + 1, 0);
    for (size_t i = 0; i < order_.size(); ++i) {
      time_[i + 1] = time_[i] + sets_.reference_time(order_[i]);
      memory_[i + 1] = memory_[i] + instance_.memory[static_cast<size_t>(order_[i])];
    }
  }

  void open(size_t end) {
    row_of_[end] = static_cast<int>(best_.size() / borders_);
    best_.resize(best_.size() + borders_, kForbidden);
    step_.resize(step_.size() + borders_);
  }

  /// Which borders a split below the bound can have at `end`, if any.
  bool find_borders(size_t end) {
    bool has_any = false;
    is_valid_.assign(borders_, 0);
    for (size_t b = 0; b < borders_; ++b) {
      const bool is_at_end = end == order_.size();
      if (routes_.is_first[b] != 0 || (routes_.is_last[b] != 0) != is_at_end) continue;
      if (!sets_.fits(routes_.state_of_border[b], time_[end], memory_[end])) continue;
      is_valid_[b] = 1;
      has_any = true;
    }
    return has_any;
  }

  void walk(size_t end) {
    stage_.clear();
    size_t begin = end;
    while (begin > 0) {
      const int block = order_[--begin];
      stage_.add(block);
      traffic_.join(block);
      if (stage_.is_beyond(bound_)) break;
      if (row_of_[begin] >= 0) extend(begin, end);
    }
    work_.spend(static_cast<int64_t>(end - begin) * kBlockUnits);
    for (; begin < end; ++begin) traffic_.leave(order_[begin]);
    traffic_.clear();
  }

  void extend(size_t begin, size_t end) {
    work_.spend(static_cast<int64_t>(routes_.ways.size()) * kWayUnits +
                static_cast<int64_t>(routes_.steps.size()) * kStepUnits);
    for (const Way& way : routes_.ways) {
      const double compute = stage_.load(way.kind);  // tensors cost nothing there
      if (!(compute < bound_)) continue;
      const double received = seconds_of(traffic_.received(), way.arrives);
      const double sent = seconds_of(traffic_.sent(), way.leaves);
      const double load = instance_.load(instance_.kinds[static_cast<size_t>(way.kind)], compute, received, sent);
      if (!(load < bound_)) continue;
      for (int s = way.first_step; s < way.last_step; ++s)
        try_step(routes_.steps[static_cast<size_t>(s)], way.kind, begin, end, load, received + sent);
    }
  }

  void try_step(const RouteStep& step, int kind, size_t begin, size_t end, double load, double transfers) {
    const auto from = static_cast<size_t>(step.from);
    const auto to = static_cast<size_t>(step.to);
    const double before = best_[static_cast<size_t>(row_of_[begin]) * borders_ + from];
    if (before == kForbidden || is_valid_[to] == 0) return;
    if (!stage_.holds(kind, sets_.held(routes_.state_of_border[from]))) return;
    if (row_of_[end] < 0) open(end);
    const size_t cell = static_cast<size_t>(row_of_[end]) * borders_ + to;
    const double value = least_ == Least::largest_load ? std::max(before, load) : before + transfers;
    if (value >= best_[cell]) return;
    best_[cell] = value;
    step_[cell] = {static_cast<int>(begin), step.from, kind};
  }

  std::optional<Split> trace_back() const {
    size_t end = order_.size();
    if (row_of_[end] < 0) return std::nullopt;
    const size_t last = static_cast<size_t>(row_of_[end]) * borders_;
    size_t border = borders_;
    for (size_t b = 0; b < borders_; ++b) {
      if (routes_.is_last[b] == 0 || !sets_.is_final(routes_.state_of_border[b])) continue;
      if (border == borders_ || best_[last + b] < best_[last + border]) border = b;
    }
    if (border == borders_ || best_[last + border] == kForbidden) return std::nullopt;
    Split split;
    split.value = best_[last + border];
    split.device_of_block.assign(order_.size(), 0);
    while (end > 0) {
      const Step& step = step_[static_cast<size_t>(row_of_[end]) * borders_ + border];
      border = static_cast<size_t>(step.border);
      const int device = sets_.next_device(routes_.state_of_border[border], step.kind);
      while (end > static_cast<size_t>(step.begin)) split.device_of_block[static_cast<size_t>(order_[--end])] = device;
    }
    return split;
  }

  const Instance& instance_;
  const DeviceSets& sets_;
  const Routes& routes_;
  const std::vector<int>& order_;
  const std::vector<char>& is_cut_;
  double bound_;
  Work& work_;
  Least least_;
  StageLoad<kMostKinds> stage_;
  StageTraffic traffic_;
  size_t borders_;
  std::vector<double> time_, memory_;  // [position]: of the blocks before it
  std::vector<int> row_of_;            // [position]: its row in best_, or -1 while nothing ends there
  std::vector<double> best_;           // (row, border)
  std::vector<Step> step_;             // (row, border)
  std::vector<char> is_valid_;         // [border], at the end being filled
};

}  // namespace

std::optional<Split> split_linked(const LinkedInstance& linked, const DeviceSets& sets, const Routes& routes,
                                  const std::vector<int>& order, const std::vector<char>& is_cut, double bound,
                                  Work& work, Least least) {
  return LinkedSplit(linked, sets, routes, order, is_cut, bound, work, least).run();
}

}  // namespace mpc::place
