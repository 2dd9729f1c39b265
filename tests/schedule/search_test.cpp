// `auto` is never worse than a named schedule in the same memory, and close to the best order there is.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "compiler/plan/simulate.h"
#include "passes/schedule/shop.h"
#include "tests/schedule/exact.h"
#include "tests/support/dice.h"

namespace mpc::test {
namespace {

constexpr ScheduleKind kNamed[] = {ScheduleKind::sequential,  ScheduleKind::gpipe, ScheduleKind::one_f_one_b,
                                   ScheduleKind::interleaved, ScheduleKind::zb_h1, ScheduleKind::zb_h2,
                                   ScheduleKind::zb_v,        ScheduleKind::list};
// Sums of the same seconds in another order.
constexpr double kRounding = 1e-12;

/// A pipeline with unequal stages, and how many micro-batches a stage may keep.
struct Case {
  Pipeline pipeline;
  int microbatches = 1;
  int most_kept = 1;
};

Case case_of(uint32_t seed, int most_devices, int most_microbatches) {
  Dice dice(seed);
  const auto below = [&](int count) { return static_cast<int>(dice.below(static_cast<size_t>(count))); };
  Case c;
  const int devices = 2 + below(most_devices - 1);
  c.microbatches = 1 + below(most_microbatches);
  // At most a forward task, so that no transfer waits for its link: the exact search knows delays only.
  c.pipeline.transfer_s = 0.5 * below(3);
  for (int d = 0; d < devices; ++d) {
    const auto seconds = [&] { return 1.0 + below(4); };
    const double forward = seconds();
    const double backward = seconds();
    c.pipeline.stages.push_back({forward, backward, seconds()});
    c.pipeline.device_of_stage.push_back(d);
  }
  c.most_kept = below(3) == 0 ? c.microbatches : std::max(1, devices - 1 + below(devices));
  return c;
}

std::vector<int64_t> limits(const Case& c) {
  return std::vector<int64_t>(c.pipeline.stages.size(), c.most_kept);
}

bool is_within(const Schedule& schedule, int64_t most_kept) {
  return std::ranges::all_of(schedule.kept_bytes, [&](int64_t kept) { return kept <= most_kept; });
}

}  // namespace

TEST_CASE("auto: on 500 random pipelines no named schedule within the same memory is shorter") {
  int within = 0;
  for (uint32_t seed = 1; seed <= 500; ++seed) {
    CAPTURE(seed);
    const Case c = case_of(seed, 8, 16);
    const Cuts cuts = c.pipeline.cuts();
    const CutSchedule found = make_schedule(cuts, c.microbatches, false, ScheduleKind::automatic, limits(c));
    CHECK(is_within(found.schedule, c.most_kept));
    for (const ScheduleKind kind : kNamed) {
      const Schedule named = make_schedule(cuts.of(segment_cut(kind)), c.microbatches, false, kind);
      if (!is_within(named, c.most_kept)) continue;
      ++within;
      CHECK(found.schedule.step_seconds <= named.step_seconds * (1 + kRounding));
    }
    const Segments& segments = cuts.of(found.cut);
    CHECK(simulate(plan_of(segments, c.microbatches, found.schedule)).step_seconds ==
          doctest::Approx(found.schedule.step_seconds).epsilon(1e-9));
  }
  CHECK(within >= 500);  // `sequential` keeps one micro-batch: it is always within
}

TEST_CASE("auto: on 500 random pipelines of at most 4 stages and 8 micro-batches no order is 1 % shorter") {
  constexpr int64_t kMostStates = 500'000;
  for (uint32_t seed = 1; seed <= 500; ++seed) {
    CAPTURE(seed);
    const Case c = case_of(seed, 4, 8);
    const Cuts cuts = c.pipeline.cuts();
    const CutSchedule found = make_schedule(cuts, c.microbatches, false, ScheduleKind::automatic, limits(c));
    const double seconds = found.schedule.step_seconds;
    const auto is_reached = has_schedule_within(c.pipeline, c.microbatches, seconds, c.most_kept, kMostStates);
    const auto is_beaten = has_schedule_within(c.pipeline, c.microbatches, seconds / 1.01, c.most_kept, kMostStates);
    REQUIRE(is_reached.has_value());
    REQUIRE(is_beaten.has_value());
    CHECK(*is_reached);
    CHECK_FALSE(*is_beaten);
  }
}

TEST_CASE("schedule: on 500 random pipelines no order takes less than what no order takes less than") {
  for (uint32_t seed = 1; seed <= 500; ++seed) {
    CAPTURE(seed);
    const Case c = case_of(seed, 8, 16);
    const Cuts cuts = c.pipeline.cuts();
    const auto least_of = [&](const Segments& segments) {
      return least_step_seconds(Shop(segments, c.microbatches, false));
    };
    const double least_s = least_of(cuts.split);
    CHECK(least_s <= least_of(cuts.whole) * (1 + kRounding));  // every order of whole segments is one of their parts
    for (const ScheduleKind kind : kNamed) {
      const Segments& segments = cuts.of(segment_cut(kind));
      CHECK(least_s <= make_schedule(segments, c.microbatches, false, kind).step_seconds * (1 + kRounding));
    }
  }
  // ZB-H1 meets it: the last of 4 devices waits 3 F for its first task, and works for 8 micro-batches.
  CHECK(least_step_seconds(Shop(uniform_pipeline(4, {1, 1, 1}).cuts().split, 8, false)) == 27);
}

TEST_CASE("auto: the exact search finds the closed forms and nothing below them") {
  // ZB-H1 at p = 4, m = 8 in the memory of 1F1B: no order ends before the last device, which waits 3 F for its first
  // task.
  const Pipeline pipeline = uniform_pipeline(4, {1, 1, 1});
  CHECK(has_schedule_within(pipeline, 8, 27, 4, 1'000'000) == true);
  CHECK(has_schedule_within(pipeline, 8, 26.9, 4, 1'000'000) == false);
  // With one micro-batch in memory all stages wait for each other, up to the last weight gradient.
  CHECK(has_schedule_within(uniform_pipeline(2, {1, 1, 1}), 2, 10, 1, 1'000'000) == true);
  CHECK(has_schedule_within(uniform_pipeline(2, {1, 1, 1}), 2, 9.9, 1, 1'000'000) == false);
}

TEST_CASE("auto: where no schedule is within the limit, what exceeds it least is taken") {
  const Pipeline pipeline = uniform_pipeline(3, {1, 1, 1});
  const CutSchedule found = make_schedule(pipeline.cuts(), 4, false, ScheduleKind::automatic, {0, 0, 0});
  for (const int64_t kept : found.schedule.kept_bytes) CHECK(kept == 1);
}

TEST_CASE("auto: the same pipeline gives the same order") {
  const Case c = case_of(7, 8, 16);
  const auto order = [&] {
    return make_schedule(c.pipeline.cuts(), c.microbatches, false, ScheduleKind::automatic, limits(c)).schedule.order;
  };
  const auto same = [](const Task& a, const Task& b) {
    return a.segment == b.segment && a.microbatch == b.microbatch && a.start_s == b.start_s;
  };
  CHECK(std::ranges::equal(order(), order(), same));
}

}  // namespace mpc::test
