// Every sample model, made small, gives the bits of one device on any number of devices: outputs, loss, gradients, and
// weights and optimizer states after two steps.

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include "api/reference_evaluator.h"
#include "compiler/onnx/model.h"
#include "models/zoo.h"
#include "tests/support/run_plan.h"
#include "tests/unit/helpers.h"

namespace {

using namespace mpc;

// 7 rows: 1 micro-batch, or 4 of 2, 2, 2 and 1 rows.
constexpr int64_t kBatch = 7;
constexpr uint64_t kSeed = 20;

using Sizes = std::map<std::string, int64_t>;

/// A sample model and the sizes that make a step take milliseconds.
struct Sample {
  const char* name;
  LossKind loss;
  Sizes sizes;
};

Sizes decoder(int64_t layers) {
  return {{"layers", layers}, {"hidden", 16}, {"heads", 2}, {"vocab", 24}, {"sequence", 6}, {"positions", 8}};
}

Sizes with(Sizes sizes, const Sizes& more) {
  for (const auto& [name, value] : more) sizes[name] = value;
  return sizes;
}

const std::vector<Sample>& samples() {
  constexpr LossKind kClasses = LossKind::cross_entropy;
  constexpr LossKind kNumbers = LossKind::mse;
  static const std::vector<Sample> kSamples = {
      {"two-linear", kNumbers, {}},
      {"seqnet", kClasses, {}},
      {"seqnet-ddp", kClasses, {}},
      {"tiny-linear", kNumbers, {}},
      {"cnn-classifier", kClasses, {}},
      {"cnn-classifier-32", kClasses, {}},
      {"encoder-decoder", kClasses, {{"sequence", 5}}},
      {"hybrid", kNumbers, {}},
      {"hybrid-trainable", kNumbers, {}},
      {"branches", kClasses, {}},
      {"many-small", kClasses, {}},
      {"residual-cut", kClasses, {}},
      {"tied-embedding", kClasses, {{"vocab", 24}, {"hidden", 8}, {"sequence", 5}}},
      {"mlp", kClasses, {{"hidden", 32}}},
      {"resnet18", kClasses, {{"image", 32}, {"classes", 10}, {"width", 4}}},
      {"resnet50", kClasses, {{"image", 32}, {"classes", 10}, {"width", 4}}},
      {"inception", kClasses, {{"image", 16}, {"classes", 10}, {"width", 8}, {"blocks", 2}}},
      {"unet", kNumbers, {{"image", 32}, {"classes", 2}, {"width", 8}, {"levels", 2}}},
      {"vit-b", kClasses, {{"layers", 2}, {"hidden", 16}, {"heads", 2}, {"image", 8}, {"patch", 4}, {"classes", 10}}},
      {"bert-base", kNumbers, decoder(2)},
      {"gpt2", kClasses, decoder(2)},
      {"gpt2-medium", kClasses, decoder(1)},
      {"gpt2-large", kClasses, decoder(1)},
      {"gpt2-xl", kClasses, decoder(3)},
      {"llama",
       kClasses,
       {{"layers", 2}, {"hidden", 16}, {"heads", 4}, {"vocab", 24}, {"sequence", 6}, {"kv_heads", 2}, {"ffn", 24}}},
      {"moe", kClasses, with(decoder(2), {{"experts", 3}, {"ffn", 16}})},
  };
  return kSamples;
}

/// A sample model on disk, loaded.
class SampleModel {
 public:
  explicit SampleModel(const Sample& sample) : sample_(sample), model_(load(sample)) {}

  PlanOptions options(int microbatches, ScheduleKind schedule) const {
    PlanOptions options;
    options.batch = kBatch;
    options.microbatches = microbatches;
    options.schedule = schedule;
    options.train = true;
    options.keep_outputs = true;
    options.loss = sample_.loss;
    options.optimizer.optimizer = parse_optimizer("adam,lr=0.01");
    return options;
  }

  FrontGraphs graphs(const PlanOptions& options) const {
    const ReferenceEvaluator evaluator;
    const auto graph_of = [&](int64_t rows) {
      onnx_io::ImportOptions import;
      import.batch = rows;
      import.mode = onnx_io::ImportOptions::Mode::training;
      return model_.import(import, evaluator);
    };
    return make_front_graphs(graph_of, kBatch, options, sample_.name);
  }

  test::Outcome run(const Plan& plan) const {
    test::RunOptions options;
    options.seed = kSeed;
    return test::run_plan(plan, model_.weights(), options);
  }

 private:
  static onnx_io::Model load(const Sample& sample) {
    const test::TemporaryFolder folder;
    zoo::Options options;
    options.sizes = sample.sizes;
    zoo::write(sample.name, options, folder / "model.onnx");
    return onnx_io::Model::load(folder / "model.onnx");
  }

  const Sample& sample_;
  onnx_io::Model model_;
};

/// How many devices and micro-batches, and who places the nodes.
struct Split {
  int devices;
  int microbatches;
  bool random_placement;
};

std::string describe(const Split& split, ScheduleKind schedule) {
  return std::to_string(split.devices) + " devices, " + std::to_string(split.microbatches) + " micro-batches, " +
         std::string(schedule_name(schedule)) + (split.random_placement ? ", random placement" : ", planned");
}

void check_sample(const Sample& sample, int first_schedule) {
  constexpr ScheduleKind kSchedules[] = {ScheduleKind::sequential,  ScheduleKind::gpipe, ScheduleKind::one_f_one_b,
                                         ScheduleKind::interleaved, ScheduleKind::zb_h1, ScheduleKind::zb_h2,
                                         ScheduleKind::zb_v,        ScheduleKind::list,  ScheduleKind::automatic};
  constexpr Split kSplits[] = {{2, 1, false}, {3, 4, false}, {4, 4, false}, {8, 1, false},
                               {2, 4, true},  {3, 1, true},  {4, 1, true},  {8, 4, true}};
  const SampleModel model(sample);
  std::map<int, test::Outcome> alone;  // by number of micro-batches
  std::map<int, FrontGraphs> graphs;
  for (const int microbatches : {1, 4}) {
    const PlanOptions options = model.options(microbatches, ScheduleKind::sequential);
    graphs.emplace(microbatches, model.graphs(options));
    alone.emplace(microbatches, model.run(test::plan_on_cpus(graphs.at(microbatches), 1, options)));
    CHECK(test::is_finite(alone.at(microbatches)));
    CHECK(alone.at(microbatches).losses.size() == 2);
    PlanOptions plain = options;
    plain.may_fuse = false;
    const auto difference =
        test::find_difference(model.run(test::plan_on_cpus(model.graphs(plain), 1, plain)), alone.at(microbatches));
    CHECK_MESSAGE(!difference, "fusion changes bits: " << difference.value_or(""));
  }
  int next = first_schedule;
  for (const Split& split : kSplits) {
    const ScheduleKind schedule = kSchedules[next++ % 9];
    INFO(describe(split, schedule));
    PlanOptions options = model.options(split.microbatches, schedule);
    const FrontGraphs& front = graphs.at(split.microbatches);
    if (split.random_placement) options.assignment = test::random_assignment(front.main, split.devices, kSeed);
    const Plan plan = test::plan_on_cpus(front, split.devices, options);
    const auto difference = test::find_difference(alone.at(split.microbatches), model.run(plan));
    CHECK_MESSAGE(!difference, difference.value_or(""));
  }
}

}  // namespace

TEST_CASE("zoo: every sample model on k devices gives the bits of one device") {
  int index = 0;
  for (const Sample& sample : samples()) {
    CAPTURE(sample.name);
    try {
      check_sample(sample, index++);
    } catch (const std::exception& error) {
      FAIL_CHECK(std::string(error.what()));
    }
  }
}

TEST_CASE("zoo: in bf16 and f16, too, k devices give the bits of one device, and fusion changes none") {
  // A scale of the loss at which no sample overflows: a skipped step would compare weights that did not change.
  constexpr double kLossScale = 64;
  constexpr Split kSplits[] = {{2, 4, false}, {3, 1, true}, {4, 4, true}};
  int index = 0;
  for (const Sample& sample : samples()) {
    const SampleModel model(sample);
    for (const Precision precision : {Precision::bf16, Precision::f16}) {
      CAPTURE(std::string(sample.name));
      CAPTURE(precision_name(precision));
      const Split& split = kSplits[index++ % 3];
      PlanOptions options = model.options(split.microbatches, ScheduleKind::automatic);
      options.precision = precision;
      options.loss_scale.initial = kLossScale;
      const FrontGraphs graphs = model.graphs(options);
      const test::Outcome alone = model.run(test::plan_on_cpus(graphs, 1, options));
      CHECK(test::is_finite(alone));
      PlanOptions plain = options;
      plain.may_fuse = false;
      const auto fused = test::find_difference(model.run(test::plan_on_cpus(model.graphs(plain), 1, plain)), alone);
      CHECK_MESSAGE(!fused, "fusion changes bits: " << fused.value_or(""));
      if (split.random_placement) options.assignment = test::random_assignment(graphs.main, split.devices, kSeed);
      const auto difference =
          test::find_difference(alone, model.run(test::plan_on_cpus(graphs, split.devices, options)));
      CHECK_MESSAGE(!difference, describe(split, ScheduleKind::automatic) << ": " << difference.value_or(""));
    }
  }
}

TEST_CASE("zoo: the samples are all models of the zoo but the one that is broken on purpose") {
  std::vector<std::string> expected;
  for (const zoo::Entry& entry : zoo::entries()) {
    if (entry.name != "cnn-classifier-broken") expected.push_back(entry.name);
  }
  std::vector<std::string> actual;
  for (const Sample& sample : samples()) actual.emplace_back(sample.name);
  CHECK(actual == expected);
}
