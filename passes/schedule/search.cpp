#include "passes/schedule/search.h"

#include <algorithm>
#include <limits>
#include <map>

#include "compiler/base/random.h"
#include "passes/schedule/move_timer.h"
#include "passes/schedule/shop.h"

// Tabu search over the orders of the devices: a job shop, where devices are machines and micro-batches are jobs.
// The step is the longest path through the dependencies and the orders, so only a change within a critical block (tasks
// of one device on a longest path, without a gap) can shorten it: a task of the block moves before its first or
// behind its last one, or two neighbours at an end change places. Each such order is timed exactly, except that links
// are taken as delays; the best order is played once more with links that carry one transfer at a time. Stops at the
// lower bound. Sources: Nowicki and Smutnicki, A Fast Taboo Search Algorithm for the Job Shop Problem (1996), for the
// search and its blocks; Balas and Vazacopoulos (1998), for moves to the ends of blocks.

namespace mpc {
namespace {

// Steps of the innermost loop: some 10 ms. Per run of the search, so that plans are the same on every machine.
constexpr int64_t kMostWork = 1'000'000;
// Orders tried in vain before the search goes back to the best one, and how often that happens.
constexpr int kMostStale = 100;
// Iterations for which a move must not be undone: this and up to as many more, so that the search does not run in
// circles.
constexpr int kTenure = 7;
// Moves in a row, chosen at random, that begin another search from the best order.
constexpr int kKick = 3;
// Differences below this share of the step are rounding.
constexpr double kNoise = 1e-9;

/// What a device keeps in an order of its tasks.
class Keeper {
 public:
  Keeper(const Segments& segments, int microbatches, bool has_tail)
      : segments_(segments),
        microbatches_(microbatches),
        has_tail_(has_tail),
        opens_(segments.segments.size()),
        closes_(segments.segments.size()) {
    for (size_t k = 0; k < segments.kept.size(); ++k) {
      opens_[static_cast<size_t>(segments.kept[k].maker)].push_back(k);
      for (const int reader : segments.kept[k].readers) closes_[static_cast<size_t>(reader)].push_back(k);
    }
    left_.resize(segments.kept.size() * static_cast<size_t>(microbatches));
  }

  int64_t peak_bytes(const std::vector<TaskId>& order) {
    int64_t live = 0;
    int64_t peak = 0;
    for (const TaskId task : order) {
      const auto s = static_cast<size_t>(task / microbatches_);
      const int i = task % microbatches_;
      if (segments_.segments[s].per_step) continue;
      for (const size_t k : opens_[s]) {
        live += bytes(k, i);
        left(k, i) = static_cast<int>(segments_.kept[k].readers.size());
      }
      peak = std::max(peak, live);
      for (const size_t k : closes_[s]) {
        if (--left(k, i) == 0) live -= bytes(k, i);
      }
    }
    return peak;
  }

 private:
  int& left(size_t k, int i) { return left_[k * static_cast<size_t>(microbatches_) + static_cast<size_t>(i)]; }
  int64_t bytes(size_t k, int i) const {
    const bool is_tail = has_tail_ && i == microbatches_ - 1;
    return segments_.kept[k].bytes[is_tail && segments_.kept[k].bytes.size() > 1 ? 1 : 0];
  }

  const Segments& segments_;
  int microbatches_;
  bool has_tail_;
  std::vector<std::vector<size_t>> opens_;  // [segment] into Segments::kept
  std::vector<std::vector<size_t>> closes_;
  std::vector<int> left_;  // [kept][micro-batch] readers that have not run
};

void carry_out(const Move& move, Orders& orders) {
  auto& order = orders[move.device];
  const auto at = [&](size_t i) { return order.begin() + static_cast<std::ptrdiff_t>(i); };
  if (move.from < move.to) {
    std::rotate(at(move.from), at(move.from + 1), at(move.to + 1));
  } else {
    std::rotate(at(move.to), at(move.from), at(move.from + 1));
  }
}

class TabuSearch {
 public:
  TabuSearch(const Segments& segments, int microbatches, bool has_tail, Orders start,
             const std::vector<int64_t>& most_kept_bytes)
      : shop_(segments, microbatches, has_tail),
        timer_(shop_),
        move_timer_(shop_),
        keeper_(segments, microbatches, has_tail),
        orders_(std::move(start)),
        most_kept_(most_kept_bytes) {
    for (size_t d = 0; d < most_kept_.size(); ++d)
      most_kept_[d] = std::max(most_kept_[d], keeper_.peak_bytes(orders_[d]));
  }

  /// @return the best orders found, if better than the start; nothing where all take more than `known_s`.
  std::optional<Orders> run(double known_s) {
    const double bound_s = least_step_seconds(shop_);
    if (bound_s > known_s * (1 + kNoise) || !timer_.time(orders_, timing_)) return std::nullopt;
    const double start_s = timing_.step_s;
    double best_s = start_s;
    Orders best = orders_;
    tabu_until_.clear();
    int stale = 0;
    for (int iteration = 1; work_ < kMostWork && best_s > bound_s * (1 + kNoise); ++iteration) {
      if (!step(iteration, best_s) || ++stale > kMostStale) {
        orders_ = best;
        timer_.time(orders_, timing_);
        for (int i = 0; i < kKick; ++i) kick();
        work_ += static_cast<int64_t>(shop_.seconds.size());
        stale = 0;
        continue;
      }
      if (timing_.step_s >= best_s * (1 - kNoise)) continue;
      best_s = timing_.step_s;
      best = orders_;
      stale = 0;
    }
    if (best_s >= start_s * (1 - kNoise)) return std::nullopt;
    return best;
  }

 private:
  // Takes the best move that is not forbidden. @return whether there was one.
  bool step(int iteration, double best_s) {
    double chosen_s = std::numeric_limits<double>::infinity();
    Move chosen;
    move_timer_.start_from(orders_, timing_);
    for (const Move& move : moves()) {
      if (!fits_after(move)) continue;
      work_ += static_cast<int64_t>(shop_.seconds.size());
      const double limit_s = is_forbidden(move, iteration) ? std::min(chosen_s, best_s * (1 - kNoise)) : chosen_s;
      const std::optional<double> step_s = move_timer_.time(move, limit_s);
      if (!step_s) continue;
      chosen_s = *step_s;
      chosen = move;
    }
    if (chosen_s == std::numeric_limits<double>::infinity()) return false;
    forbid_return(chosen, iteration);
    carry_out(chosen, orders_);
    timer_.time(orders_, timing_);
    return true;
  }

  uint64_t random(size_t below) { return mix_bits(++dice_) % below; }

  // One critical move at random.
  void kick() {
    const std::vector<Move> all = moves();
    if (all.empty()) return;
    const Move& move = all[random(all.size())];
    carry_out(move, orders_);
    if (fits(move.device) && timer_.time(orders_, timing_)) return;
    carry_out({move.device, move.to, move.from}, orders_);
    timer_.time(orders_, timing_);
  }

  bool fits(size_t device) { return most_kept_.empty() || keeper_.peak_bytes(orders_[device]) <= most_kept_[device]; }
  bool fits_after(const Move& move) {
    if (most_kept_.empty()) return true;
    carry_out(move, orders_);
    const bool result = fits(move.device);
    carry_out({move.device, move.to, move.from}, orders_);
    return result;
  }

  // What a move passes must not be passed back for a while.
  template <class F>
  void for_each_passed(const Move& move, F&& f) const {
    const auto& order = orders_[move.device];
    const bool forward = move.from < move.to;
    for (size_t i = std::min(move.from, move.to); i <= std::max(move.from, move.to); ++i) {
      if (i == move.from) continue;
      forward ? f(order[i], order[move.from]) : f(order[move.from], order[i]);
    }
  }
  bool is_forbidden(const Move& move, int iteration) const {
    bool forbidden = false;
    for_each_passed(move, [&](TaskId first, TaskId second) {
      const auto it = tabu_until_.find({first, second});
      forbidden = forbidden || (it != tabu_until_.end() && it->second >= iteration);
    });
    return forbidden;
  }
  void forbid_return(const Move& move, int iteration) {
    const int until = iteration + kTenure + static_cast<int>(random(kTenure));
    for_each_passed(move, [&](TaskId first, TaskId second) { tabu_until_[{second, first}] = until; });
  }

  // The moves within the critical blocks of one longest path.
  std::vector<Move> moves() {
    std::vector<std::pair<int, int>> place(shop_.seconds.size());  // (device, position)
    for (size_t d = 0; d < orders_.size(); ++d) {
      for (size_t i = 0; i < orders_[d].size(); ++i)
        place[static_cast<size_t>(orders_[d][i])] = {static_cast<int>(d), static_cast<int>(i)};
    }
    TaskId last = -1;
    for (const TaskId task : timing_.topological) {
      const auto t = static_cast<size_t>(task);
      if (timing_.start_s[t] + shop_.seconds[t] >= timing_.step_s) last = task;
    }
    std::vector<Move> result;
    size_t block_end = 0;
    TaskId task = last;
    bool in_block = false;
    while (task >= 0) {
      const auto [d, i] = place[static_cast<size_t>(task)];
      if (!in_block) block_end = static_cast<size_t>(i);
      const TaskId previous = i > 0 ? orders_[static_cast<size_t>(d)][static_cast<size_t>(i) - 1] : -1;
      const double start_s = timing_.start_s[static_cast<size_t>(task)];
      const TaskId cause = start_s > 0 ? cause_of(task, start_s) : -1;
      const bool is_in_line = previous >= 0 && end_s(previous) >= start_s;
      // Where several paths are longest, one of them by chance.
      if (is_in_line && (cause < 0 || cause == previous || random(4) > 0)) {
        in_block = true;
        task = previous;
        continue;
      }
      add_moves(static_cast<size_t>(d), static_cast<size_t>(i), block_end, result);
      in_block = false;
      task = cause;
    }
    return result;
  }

  double end_s(TaskId task) const {
    return timing_.start_s[static_cast<size_t>(task)] + shop_.seconds[static_cast<size_t>(task)];
  }

  TaskId cause_of(TaskId task, double start_s) const {
    for (const Arc& arc : shop_.before(task)) {
      if (end_s(arc.to) + arc.lag_s >= start_s) return arc.to;
    }
    return -1;
  }

  static void add_moves(size_t device, size_t begin, size_t end, std::vector<Move>& moves) {
    // In a long block only what is near its ends; the rest gets there step by step.
    constexpr size_t kReach = 12;
    if (begin == end) return;
    for (size_t i = begin + 1; i <= std::min(end, begin + kReach); ++i) moves.push_back({device, i, begin});
    for (size_t i = end - std::min(end - begin, kReach); i < end; ++i) moves.push_back({device, i, end});
    if (end - begin < 2) return;
    moves.push_back({device, end, end - 1});
    moves.push_back({device, begin, begin + 1});
  }

  Shop shop_;
  Timer timer_;
  MoveTimer move_timer_;
  Keeper keeper_;
  Orders orders_;
  std::vector<int64_t> most_kept_;
  Timing timing_;
  std::map<std::pair<TaskId, TaskId>, int> tabu_until_;
  int64_t work_ = 0;
  uint64_t dice_ = 0;
};

}  // namespace

std::optional<Schedule> improve(const Segments& segments, int microbatches, bool has_tail, const Schedule& start,
                                const std::vector<int64_t>& most_kept_bytes, double known_s) {
  TabuSearch search(segments, microbatches, has_tail, orders_of(segments, microbatches, start), most_kept_bytes);
  const std::optional<Orders> orders = search.run(known_s);
  if (!orders) return std::nullopt;
  return play_order(segments, microbatches, has_tail, *orders);
}

}  // namespace mpc
