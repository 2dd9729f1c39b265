// How long the compiler takes from a loaded model to a plan: import, passes, placement, memory planning. Read cpu_time:
// the machine is shared, and planning uses one thread.

#include <sys/resource.h>

#include <filesystem>
#include <optional>
#include <string>

#include <benchmark/benchmark.h>

#include "models/zoo.h"
#include "mpc/mpc.h"

namespace {

/// Writes the sample model without weights and loads it; the file is removed again.
mpc::Model sample_model(const std::string& name, mpc::zoo::Options options) {
  options.weights = false;
  const std::filesystem::path path = std::filesystem::temp_directory_path() / ("mpc_planning_bench_" + name + ".onnx");
  mpc::zoo::write(name, options, path.string());
  mpc::Model model = mpc::Model::load(path.string());
  std::filesystem::remove(path);
  return model;
}

mpc::CompileOptions compile_options(bool is_training, int microbatches) {
  mpc::CompileOptions options;
  options.verify_passes = false;  // as the program does in a release build
  if (is_training) {
    options.training = mpc::TrainingOptions{};
    options.training->optimizer = "adamw,lr=0.001";
    options.microbatches = microbatches;
  }
  return options;
}

void compile(benchmark::State& state, const mpc::Model& model, const mpc::CompileOptions& options) {
  const mpc::Cluster cluster = mpc::Cluster::gpus(static_cast<int>(state.range(0)), "h100-80g");
  for (auto _ : state) {
    const mpc::CompileResult result = mpc::compile(model, cluster, options);
    if (!result) {
      state.SkipWithError("no plan fits");
      break;
    }
    benchmark::DoNotOptimize(result.plan->devices().size());
  }
}

void plan(benchmark::State& state, const std::string& name, bool is_training) {
  compile(state, sample_model(name, {.batch = 8}), compile_options(is_training, 4));
}

/// The models of the acceptance tests, with the batch and the devices of their rows. No loss: forward only.
void row(benchmark::State& state, const std::string& name, int batch, const std::string& loss) {
  mpc::CompileOptions options = compile_options(!loss.empty(), 1);
  if (options.training) options.training->loss = loss;
  compile(state, sample_model(name, {.batch = batch}), options);
}

/// 1.0 T parameters in 128 layers over 1,024 GPUs. peak_MB is of the whole process: run it alone.
void parallel(benchmark::State& state) {
  const mpc::Model model = sample_model(
      "gpt2-xl",
      {.sizes = {{"layers", 128}, {"hidden", 25600}, {"heads", 160}, {"sequence", 2048}, {"positions", 2048}}});
  const mpc::Cluster cluster = mpc::Cluster::gpus(1024, "h100-80g");
  mpc::CompileOptions options = compile_options(true, 512);
  options.bindings.batch = 512;
  for (auto _ : state) {
    const mpc::ParallelPlan plan = mpc::plan_parallel(model, cluster, options);
    if (!plan.feasible) {
      state.SkipWithError("no plan fits");
      break;
    }
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  state.counters["peak_MB"] = static_cast<double>(usage.ru_maxrss) / 1024;
}

}  // namespace

BENCHMARK_CAPTURE(row, S_A, "two-linear", 64, "")->Arg(2)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(row, S_D, "seqnet", 100, "cross-entropy")->Arg(2)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(row, S_E, "seqnet-ddp", 100, "cross-entropy")->Arg(1)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(row, S_I, "cnn-classifier", 64, "cross-entropy")->Arg(2)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(row, S_J, "encoder-decoder", 32, "cross-entropy")->Arg(3)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(row, S_N, "hybrid-trainable", 32, "mse")->Arg(2)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(row, S_O, "branches", 64, "cross-entropy")->Arg(3)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(row, S_P, "many-small", 32, "")->Arg(2)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(row, S_R, "residual-cut", 32, "cross-entropy")->Arg(3)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(row, S_S, "tied-embedding", 32, "cross-entropy")->Arg(2)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan, resnet50_forward, "resnet50", false)->Arg(2)->Arg(4)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan, resnet50_training, "resnet50", true)->Arg(2)->Arg(4)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan, gpt2_xl_forward, "gpt2-xl", false)->Arg(2)->Arg(4)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan, gpt2_xl_training, "gpt2-xl", true)->Arg(2)->Arg(4)->Arg(8)->Unit(benchmark::kMillisecond);
BENCHMARK(parallel)->Unit(benchmark::kMillisecond)->Iterations(1);

int main(int argc, char** argv) {
  benchmark::AddCustomContext("figures", "cpu_time: seconds of one core; real_time measures the machine's other users");
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
