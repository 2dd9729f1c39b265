// The named schedules reach their closed forms, and the simulator says the same of the plans that execute them.

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "compiler/plan/simulate.h"
#include "tests/schedule/pipelines.h"

namespace mpc::test {
namespace {

// Sums of small dyadic numbers: only the division for the bubble rounds.
constexpr double kTolerance = 1e-9;
constexpr StageSeconds kEqual = {1, 1, 1};

/// A pipeline of `devices` devices played by a named schedule, and replayed from its plan.
struct Played {
  Schedule schedule;
  Timeline timeline;
  std::vector<double> idle_s;  // [device] between its first and its last task
};

Played play_named(const Pipeline& pipeline, int microbatches, ScheduleKind kind) {
  const Cuts cuts = pipeline.cuts();
  const Segments& segments = cuts.of(segment_cut(kind));
  Played played;
  played.schedule = make_schedule(segments, microbatches, false, kind);
  played.timeline = simulate(plan_of(segments, microbatches, played.schedule));
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> first(static_cast<size_t>(segments.device_count), kNever);
  std::vector<double> last(first.size(), 0);
  for (const Task& task : played.schedule.order) {
    const size_t d = segments.segments[static_cast<size_t>(task.segment)].device.index();
    first[d] = std::min(first[d], task.start_s);
    last[d] = std::max(last[d], task.end_s);
  }
  for (size_t d = 0; d < first.size(); ++d) {
    played.idle_s.push_back(last[d] - first[d] - played.timeline.device_busy_s[d]);
  }
  return played;
}

void check_step(const Played& played, double seconds, double bubble) {
  CHECK(played.schedule.step_seconds == doctest::Approx(seconds).epsilon(kTolerance));
  CHECK(played.timeline.step_seconds == doctest::Approx(seconds).epsilon(kTolerance));
  CHECK(played.schedule.bubble == doctest::Approx(bubble).epsilon(kTolerance));
  CHECK(played.timeline.bubble == doctest::Approx(bubble).epsilon(kTolerance));
}

struct Size {
  int devices;
  int microbatches;
};
constexpr Size kSizes[] = {{4, 8}, {8, 32}, {16, 64}, {2, 8}};

}  // namespace

TEST_CASE("schedules: GPipe and 1F1B leave (p - 1) / (m + p - 1), and 1F1B keeps p - i micro-batches on stage i") {
  for (const auto& [p, m] : kSizes) {
    CAPTURE(p);
    const Pipeline pipeline = uniform_pipeline(p, kEqual);
    const double bubble = (p - 1.0) / (m + p - 1);
    check_step(play_named(pipeline, m, ScheduleKind::gpipe), 3 * (m + p - 1), bubble);
    const Played played = play_named(pipeline, m, ScheduleKind::one_f_one_b);
    check_step(played, 3 * (m + p - 1), bubble);
    for (int i = 0; i < p; ++i) CHECK(played.schedule.kept_bytes[static_cast<size_t>(i)] == p - i);
  }
}

TEST_CASE("schedules: 1F1B and GPipe meet their closed form for unequal forward and backward seconds") {
  const StageSeconds seconds = {0.5, 1.25, 0.75};
  for (const auto& [p, m] : kSizes) {
    CAPTURE(p);
    const Pipeline pipeline = uniform_pipeline(p, seconds);
    const double bubble = (p - 1.0) / (m + p - 1);
    check_step(play_named(pipeline, m, ScheduleKind::gpipe), 2.5 * (m + p - 1), bubble);
    check_step(play_named(pipeline, m, ScheduleKind::one_f_one_b), 2.5 * (m + p - 1), bubble);
  }
}

TEST_CASE("schedules: interleaved 1F1B leaves (p - 1) (F + B + W) / v per device") {
  for (const int chunks : {2, 4}) {
    for (const auto& [p, m] : kSizes) {
      CAPTURE(p);
      const double idle = 3.0 * (p - 1) / chunks;
      const Played played = play_named(looped_pipeline(p, chunks, kEqual), m, ScheduleKind::interleaved);
      check_step(played, 3 * m + idle, idle / (3 * m + idle));
      // Megatron's figure for the first device, counted in chunks: p (1 + (p - 1) / (p v)) v = p v + p - 1.
      CHECK(played.schedule.kept_bytes[0] == std::min(m * chunks, p * chunks + p - 1));
    }
  }
}

TEST_CASE("schedules: interleaved 1F1B takes a number of micro-batches that the stages do not divide") {
  for (const int m : {1, 3, 5, 7, 9, 13}) {
    CAPTURE(m);
    const Played played = play_named(looped_pipeline(4, 2, kEqual), m, ScheduleKind::interleaved);
    CHECK(played.timeline.step_seconds >= 3 * m + 4.5);
    // Never behind 1F1B of the same stages, which has one chunk.
    CHECK(played.timeline.step_seconds <= 3 * (m + 3));
    CHECK(played.schedule.order.size() == static_cast<size_t>(2 * 2 * 4 * m));
  }
}

TEST_CASE("schedules: ZB-H1 leaves (p - 1) (F + B - W) per device in the memory of 1F1B") {
  for (const auto& [p, m] : kSizes) {
    CAPTURE(p);
    const double idle = p - 1;
    const Played played = play_named(uniform_pipeline(p, kEqual), m, ScheduleKind::zb_h1);
    check_step(played, 3 * m + idle, idle / (3 * m + idle));
    for (const int64_t kept : played.schedule.kept_bytes) CHECK(kept == p);
  }
}

TEST_CASE("schedules: ZB-H2 leaves no gap between a device's first and last task, for 2 p - 1 micro-batches") {
  for (const auto& [p, m] : kSizes) {
    CAPTURE(p);
    const Played played = play_named(uniform_pipeline(p, kEqual), m, ScheduleKind::zb_h2);
    for (const double idle : played.idle_s) CHECK(idle == doctest::Approx(0));
    // One step cannot do better: the last device waits (p - 1) F for its first task.
    check_step(played, 3 * m + p - 1, (p - 1.0) / (3 * m + p - 1));
    for (const int64_t kept : played.schedule.kept_bytes) CHECK(kept == std::min(m, 2 * p - 1));
  }
}

TEST_CASE("schedules: ZB-V ends (p - 1) F / 2 after the work of a device in the memory of 1F1B") {
  // At p = 16 the rule is 1 % behind.
  for (const auto& [p, m] : {Size{4, 8}, Size{8, 32}, Size{2, 8}}) {
    CAPTURE(p);
    const double idle = 0.5 * (p - 1);
    const Played played = play_named(v_pipeline(p, kEqual), m, ScheduleKind::zb_v);
    check_step(played, 3 * m + idle, idle / (3 * m + idle));
    for (const int64_t kept : played.schedule.kept_bytes) CHECK(kept == 2 * p);  // halves of a stage
  }
}

TEST_CASE("schedules: what a search for stages counts on is what equal stages keep") {
  for (const ScheduleKind kind : {ScheduleKind::sequential, ScheduleKind::gpipe, ScheduleKind::one_f_one_b,
                                  ScheduleKind::zb_h1, ScheduleKind::zb_h2, ScheduleKind::list}) {
    CAPTURE(schedule_name(kind));
    for (const auto& [p, m] : {Size{4, 8}, Size{8, 32}, Size{2, 8}, Size{4, 2}}) {
      CAPTURE(p);
      CAPTURE(m);
      const Played played = play_named(uniform_pipeline(p, kEqual), m, kind);
      for (int i = 0; i < p; ++i) {
        const double bytes = held_microbatches(kind, 1).of(i, p, m).bytes(1, 1);
        CHECK(played.schedule.kept_bytes[static_cast<size_t>(i)] == bytes);
      }
    }
  }
}

TEST_CASE("schedules: parts of a device share what it keeps") {
  constexpr int kParts = 2;
  for (const auto& [p, m] : {Size{4, 8}, Size{8, 32}, Size{2, 8}}) {
    CAPTURE(p);
    const Played looped = play_named(looped_pipeline(p, kParts, kEqual), m, ScheduleKind::interleaved);
    const Played vee = play_named(v_pipeline(p, kEqual), m, ScheduleKind::zb_v);
    for (int d = 0; d < p; ++d) {
      double in_turn = 0;
      double there_and_back = 0;
      for (int part = 0; part < kParts; ++part) {
        in_turn += held_microbatches(ScheduleKind::interleaved, kParts).of(part * p + d, kParts * p, m).bytes(1, 1);
        there_and_back += held_microbatches(ScheduleKind::zb_v, kParts).of(part * p + d, kParts * p, m).bytes(1, 1);
      }
      CHECK(looped.schedule.kept_bytes[static_cast<size_t>(d)] == std::min<double>(in_turn, m * kParts));
      CHECK(vee.schedule.kept_bytes[static_cast<size_t>(d)] == there_and_back);
    }
  }
}

TEST_CASE("schedules: the figures of the literature at p = 4, 8, 16, 2") {
  struct Row {
    Size size;
    double one_f_one_b, interleaved, zb_h1;
  };
  // Idle share of the step, F = B = W, no communication; to the digits in which they are published.
  for (const Row& row :
       {Row{{4, 8}, .2727, .1579, .1111}, Row{{8, 32}, .1795, .0986, .0680}, Row{{16, 64}, .1899, .1049, .0725}}) {
    const auto& [p, m] = row.size;
    CAPTURE(p);
    constexpr double kDigits = 5e-5;
    const auto bubble = [&, m = m](const Pipeline& pipeline, ScheduleKind kind) {
      return play_named(pipeline, m, kind).timeline.bubble;
    };
    CHECK(std::abs(bubble(uniform_pipeline(p, kEqual), ScheduleKind::one_f_one_b) - row.one_f_one_b) <= kDigits);
    CHECK(std::abs(bubble(looped_pipeline(p, 2, kEqual), ScheduleKind::interleaved) - row.interleaved) <= kDigits);
    CHECK(std::abs(bubble(uniform_pipeline(p, kEqual), ScheduleKind::zb_h1) - row.zb_h1) <= kDigits);
  }
}

TEST_CASE("simulate: transfers take their link one at a time, as the schedule assumed") {
  // Links that are slower than the stages are what every micro-batch waits for.
  for (const double transfer_s : {0.25, 1.0, 5.0}) {
    for (const ScheduleKind kind : {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::zb_h1}) {
      Pipeline pipeline = uniform_pipeline(3, kEqual);
      pipeline.transfer_s = transfer_s;
      const Played played = play_named(pipeline, 6, kind);
      CHECK(played.timeline.step_seconds == doctest::Approx(played.schedule.step_seconds).epsilon(kTolerance));
      // Six transfers of a micro-batch each pass every link, after the first has got there.
      CHECK(played.timeline.step_seconds >= 6 * transfer_s);
    }
  }
}

}  // namespace mpc::test
