// How long the search for the order of a pipeline takes; a part of planning_bench, which sees the public API alone.

#include <benchmark/benchmark.h>

#include "tests/schedule/pipelines.h"

namespace {

/// `auto` for a chain of equal stages, one per device.
void schedule(benchmark::State& state) {
  const mpc::Cuts cuts = mpc::test::uniform_pipeline(static_cast<int>(state.range(0)), {1, 1, 1}).cuts();
  const auto microbatches = static_cast<int>(state.range(1));
  for (auto _ : state) {
    const mpc::CutSchedule chosen = mpc::make_schedule(cuts, microbatches, false, mpc::ScheduleKind::automatic, {});
    benchmark::DoNotOptimize(chosen.schedule.step_seconds);
  }
}

}  // namespace

BENCHMARK(schedule)->Args({64, 256})->Unit(benchmark::kMillisecond);
