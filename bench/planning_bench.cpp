// How long the compiler takes from a loaded model to a plan: import, passes, placement, memory planning.

#include <filesystem>
#include <optional>
#include <string>

#include <benchmark/benchmark.h>

#include "models/zoo.h"
#include "mpc/mpc.h"

namespace {

/// Writes the sample model without weights and loads it; the file is removed again.
mpc::Model sample_model(const std::string& name, int64_t batch) {
  mpc::zoo::Options options;
  options.batch = batch;
  options.weights = false;
  const std::filesystem::path path = std::filesystem::temp_directory_path() / ("mpc_planning_bench_" + name + ".onnx");
  mpc::zoo::write(name, options, path.string());
  mpc::Model model = mpc::Model::load(path.string());
  std::filesystem::remove(path);
  return model;
}

void plan(benchmark::State& state, const std::string& name, bool is_training) {
  const mpc::Model model = sample_model(name, 8);
  const mpc::Cluster cluster = mpc::Cluster::gpus(static_cast<int>(state.range(0)), "h100-80g");
  mpc::CompileOptions options;
  options.verify_passes = false;  // as the program does in a release build
  if (is_training) {
    options.training = mpc::TrainingOptions{};
    options.training->optimizer = "adamw,lr=0.001";
    options.microbatches = 4;
  }
  for (auto _ : state) {
    const mpc::CompileResult result = mpc::compile(model, cluster, options);
    if (!result) {
      state.SkipWithError("no plan fits");
      break;
    }
    benchmark::DoNotOptimize(result.plan->devices().size());
  }
}

}  // namespace

BENCHMARK_CAPTURE(plan, resnet50_forward, "resnet50", false)->Arg(2)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan, resnet50_training, "resnet50", true)->Arg(2)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan, gpt2_xl_forward, "gpt2-xl", false)->Arg(2)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan, gpt2_xl_training, "gpt2-xl", true)->Arg(2)->Arg(8)->Unit(benchmark::kMillisecond);

BENCHMARK_MAIN();
