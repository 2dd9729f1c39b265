// A move timed from where it changes something takes what the whole order takes.

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "passes/schedule/move_timer.h"
#include "tests/schedule/pipelines.h"
#include "tests/support/dice.h"

namespace mpc::test {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

Orders moved(Orders orders, const Move& move) {
  auto& order = orders[move.device];
  const TaskId task = order[move.from];
  order.erase(order.begin() + static_cast<std::ptrdiff_t>(move.from));
  order.insert(order.begin() + static_cast<std::ptrdiff_t>(move.to), task);
  return orders;
}

}  // namespace

TEST_CASE(
    "move_timer: random moves on 200 random pipelines take the seconds of the whole order, or are cycles as it is") {
  int possible = 0;
  int cycles = 0;
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    Dice dice(seed);
    Pipeline pipeline;
    const size_t stages = 2 + dice.below(5);
    const size_t devices = 1 + dice.below(stages);
    const auto seconds = [&] { return 1.0 + static_cast<double>(dice.below(4)); };
    for (size_t s = 0; s < stages; ++s) {
      const double forward = seconds();
      const double backward = seconds();
      pipeline.stages.push_back({forward, backward, seconds()});
      pipeline.device_of_stage.push_back(static_cast<int>(s % devices));
    }
    pipeline.transfer_s = 0.5 * static_cast<double>(dice.below(3));
    const int microbatches = 1 + static_cast<int>(dice.below(6));
    const Cuts cuts = pipeline.cuts();
    const Segments& segments = cuts.of(segment_cut(ScheduleKind::zb_h1));
    const Schedule start = make_schedule(segments, microbatches, false, ScheduleKind::zb_h1);
    const Orders orders = orders_of(segments, microbatches, start);
    const Shop shop(segments, microbatches, false);
    Timer timer(shop);
    Timing timing;
    REQUIRE(timer.time(orders, timing));
    MoveTimer move_timer(shop);
    move_timer.start_from(orders, timing);
    for (int i = 0; i < 30; ++i) {
      Move move;
      move.device = dice.below(orders.size());
      const size_t count = orders[move.device].size();
      if (count < 2) continue;
      move.from = dice.below(count);
      // Far moves are seldom possible.
      const size_t most = dice.below(2) == 0 ? count - 1 : std::min<size_t>(count - 1, 2);
      move.to = (move.from + 1 + dice.below(most)) % count;
      Timing whole;
      const bool is_possible = timer.time(moved(orders, move), whole);
      const std::optional<double> step_s = move_timer.time(move, kNoLimit);
      CAPTURE(move.device);
      CAPTURE(move.from);
      CAPTURE(move.to);
      REQUIRE(step_s.has_value() == is_possible);
      ++(is_possible ? possible : cycles);
      if (!is_possible) continue;
      CHECK(*step_s == whole.step_s);
      CHECK(!move_timer.time(move, whole.step_s));
      CHECK(move_timer.time(move, whole.step_s + 0.25) == step_s);
    }
  }
  CHECK(possible > 1000);
  CHECK(cycles > 1000);
}

}  // namespace mpc::test
