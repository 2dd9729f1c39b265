// The networks of the acceptance rows against PyTorch: output, loss, gradients and updated weights of two steps, on one
// device, on the devices that the row pins its parts to, and where the planner puts them. make_goldens.py says what is
// stored and how it was made.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "compiler/base/random.h"
#include "tests/acceptance/rows.h"
#include "tests/goldens/f64_model.h"
#include "tests/goldens/goldens.h"

namespace mpc::test {
namespace {

/// A row: a network, what it is trained with, and where its parts belong.
struct Row {
  std::string goldens;              // the file in data/
  std::string model;                // of mpc zoo
  std::vector<std::string> inputs;  // in the order of make_goldens.py, labels last
  int64_t ids = 0;                  // integers of the first input are in [0, ids)
  int64_t labels = 0;               // those of the last are in [0, labels)
  LossKind loss = LossKind::cross_entropy;
  std::string optimizer;
  std::vector<std::string> groups = {};  // regexes of parameters with an instance of the optimizer of their own
  double clip_norm = 0;
  std::vector<std::pair<std::string, int>> pins;
  int devices = 2;
};

/// What is promised about numbers of one type: distances as parts of a tensor's largest magnitude.
struct Precision {
  const char* type;
  bool is_f64;
  double forward;
  double gradient;
  double rounding;  // half a unit in the last place of 1
};
// The bounds of the acceptance table. In f32 both sides round: seen are 1e-6 for outputs, and for gradients up to 1e-5
// where PyTorch sums 262,144 products in f32 (the bias of the convolution).
constexpr Precision kF32 = {"f32", false, 1e-5, 1e-4, 0x1p-24};
constexpr Precision kF64 = {"f64", true, 1e-10, 1e-10, 0x1p-53};

/// Input number `index` of a row, as make_goldens.py makes it: floats are multiples of 2^-23 in [-1, 1).
std::vector<std::byte> content(uint64_t index, DType dtype, const Shape& shape, int64_t bound) {
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(shape, dtype)));
  const auto width = static_cast<size_t>(dtype_bytes(dtype));
  for (size_t i = 0; i * width < bytes.size(); ++i) {
    const uint64_t word = mix_bits(i + ((index + 1) << 32));
    if (dtype == DType::i64) {
      write_integer(dtype, &bytes[i * width], static_cast<int64_t>(word % static_cast<uint64_t>(bound)));
    } else {
      write_number(dtype, &bytes[i * width], static_cast<double>(word >> 40) * 0x1p-23 - 1.0);
    }
  }
  return bytes;
}

void check_near(const Goldens& goldens, const std::string& name, const Literal& actual, double tolerance) {
  INFO(name);
  CHECK(distance(actual, goldens.read(name)) <= tolerance);
}

/// What both sides start from is the same to the bit: were it not, the goldens would be of another model.
void check_same_start(const Goldens& goldens, const std::string& name, const Literal& actual) {
  INFO(name);
  const Golden golden = goldens.read(name);
  CHECK(sample_of(actual, golden) == golden.sample);
  CHECK(distance(actual, golden) <= 1e-12);  // sums over all elements, added in another order
}

/// One plan in execution on the row's data.
class Run {
 public:
  Run(const Row& row, const Goldens& goldens, const ZooModel& model, const Plan& plan)
      : goldens_(goldens), session_(plan, model.model().weights(), poisoned()) {
    for (size_t i = 0; i < row.inputs.size(); ++i) {
      const auto input = std::ranges::find(plan.inputs, row.inputs[i], &PlanInput::name);
      if (input == plan.inputs.end()) continue;  // labels, when nothing is trained
      const DType dtype = plan.values[input->value].dtype;
      Shape shape = plan.values[input->value].shapes[0];
      shape.set(0, plan.batch);
      contents_.push_back(content(i, dtype, shape, i + 1 == row.inputs.size() ? row.labels : row.ids));
      check_same_start(goldens, "input " + row.inputs[i], Literal(dtype, shape, contents_.back()));
      session_.bind(row.inputs[i], dtype, shape, contents_.back());
    }
    for (const PlanGradient& gradient : plan.gradients) parameters_.push_back(plan.values[gradient.parameter].source);
    for (const std::string& name : parameters_) check_same_start(goldens, "initial " + name, session_.read(name));
  }

  /// Runs step number `step` and compares what it computed.
  void check_step(const Precision& precision, int step) {
    const std::string prefix = std::string(precision.type) + "/step" + std::to_string(step) + "/";
    const double loss = session_.step().loss;
    check_near(goldens_, prefix + "output", session_.output("y"), precision.forward);
    if (parameters_.empty()) return;
    check_near(goldens_, prefix + "loss", Literal::scalar(DType::f64, loss), precision.forward);
    for (const std::string& name : parameters_) {
      const Literal gradient = session_.gradient(name);
      check_near(goldens_, prefix + "gradient of " + name, gradient, precision.gradient);
      gradients_[name].push_back(gradient);
    }
  }

  /// Compares the weights after the steps.
  void check_weights(const Row& row, const Precision& precision) const {
    for (const std::string& name : parameters_) check_weight(row, precision, name);
  }

 private:
  const Goldens& goldens_;
  executor::Session session_;
  std::vector<std::vector<std::byte>> contents_;  // what the session reads
  std::vector<std::string> parameters_;
  std::map<std::string, std::vector<Literal>> gradients_;  // of each step, by parameter

  /// Adam divides a gradient by its own size: where PyTorch's gradient is near zero, rounding decides the sign of an
  /// update of the full learning rate. So no one bound fits all weights. The bound of a weight is what follows from the
  /// gradients of that weight on both sides: how far their difference can move the two updates, and rounding.
  void check_weight(const Row& row, const Precision& precision, const std::string& name) const {
    INFO("weight ", name);
    const std::string prefix = std::string(precision.type) + "/";
    const Golden golden = goldens_.read(prefix + "weight " + name);
    const Literal weight = session_.read(name);
    CHECK(distance(weight, golden) <= precision.gradient);

    std::vector<std::vector<double>> expected;
    std::vector<std::vector<double>> actual;
    for (const int step : {1, 2}) {
      const Golden gradient = goldens_.read(prefix + "step" + std::to_string(step) + "/gradient of " + name);
      expected.push_back(gradient.sample);
      actual.push_back(sample_of(gradients_.at(name)[static_cast<size_t>(step - 1)], gradient));
    }
    const OptimizerSpec optimizer = parse_optimizer(row.optimizer);
    const std::vector<double> sample = sample_of(weight, golden);
    for (size_t i = 0; i < sample.size(); ++i) {
      const double g1 = expected[0][i];
      const double g2 = expected[1][i];
      const double error = std::max(std::abs(actual[0][i] - g1), std::abs(actual[1][i] - g2));
      double moved = 0;  // in units of the learning rate
      if (optimizer.kind == OptimizerKind::adam) {
        // An update is m / sqrt(v), of magnitude 1 at most while m and v hold two gradients; its derivative by either
        // gradient is below 1 / hypot(g1, g2) after bias correction. Twice that, for an error that is not small.
        const auto moves = [&](double size) { return error == 0 ? 0.0 : std::min(2.0, 2 * error / size); };
        moved = moves(std::abs(g1)) + moves(std::hypot(g1, g2));
      } else {
        moved = 3 * error;  // g1 + g2; with momentum 0.9 they are 1.9 g1 + g2
      }
      // Each of the two updates is rounded to the weight's type on both sides, and computed in ten operations.
      const double rounding = precision.rounding * (4 * golden.largest + 20 * optimizer.learning_rate);
      const double bound = optimizer.learning_rate * moved + rounding;
      if (std::abs(sample[i] - golden.sample[i]) <= bound) continue;
      INFO("element ", i * static_cast<size_t>(golden.stride), ": ", sample[i], " instead of ", golden.sample[i],
           ", gradients ", g1, " and ", g2, ", their error ", error);
      CHECK(std::abs(sample[i] - golden.sample[i]) <= bound);
      return;
    }
  }
};

Goldens goldens_of(const Row& row) {
  return Goldens(std::string(MPC_SOURCE_DIR) + "/tests/goldens/data/" + row.goldens + ".safetensors");
}

PlanOptions options_of(const Row& row) {
  PlanOptions options = training(row.pins, row.loss, row.optimizer);
  for (const std::string& group : row.groups) options.optimizer.groups.push_back({group, options.optimizer.optimizer});
  options.optimizer.clip_norm = row.clip_norm;
  options.keep_outputs = true;
  return options;
}

void check_plan_of(const Row& row, const Precision& precision, const ZooModel& model, int devices,
                   const PlanOptions& options) {
  INFO(precision.type, " on ", devices, " devices, with ", options.pins.size(), " pins and ", options.microbatches,
       " micro-batches");
  const Goldens goldens = goldens_of(row);
  Run run(row, goldens, model, plan_of(model, devices, options));
  run.check_step(precision, 1);
  if (!options.train) return;
  run.check_step(precision, 2);
  run.check_weights(row, precision);
}

/// Runs the row in f32, and in f64 when its goldens have that: forward alone, trained on one device, as pinned, as the
/// planner places it, and pinned with each of `changes`.
void check_row(const Row& row, const std::vector<std::function<void(PlanOptions&)>>& changes = {}) {
  for (const Precision& precision : {kF32, kF64}) {
    if (!goldens_of(row).has(std::string(precision.type) + "/step1/loss")) continue;
    const ZooModel model(row.model, [&](const std::string& path) {
      if (precision.is_f64) make_f64(path);
    });
    const PlanOptions pinned = options_of(row);
    check_plan_of(row, precision, model, 1, on_one_device(pinned));
    check_plan_of(row, precision, model, row.devices, pinned);
    PlanOptions placed = pinned;
    placed.pins.clear();
    check_plan_of(row, precision, model, row.devices, placed);
    PlanOptions forward = pinned;
    forward.train = false;
    std::erase_if(forward.pins, [](const Pin& pin) { return pin.pattern == "loss/"; });
    check_plan_of(row, precision, model, row.devices, forward);
    for (const auto& change : changes) {
      PlanOptions changed = pinned;
      change(changed);
      check_plan_of(row, precision, model, row.devices, changed);
    }
  }
}

/// Micro-batches of equal size in 1F1B: gradients are sums of parts and equal the batch's.
std::function<void(PlanOptions&)> microbatches(int count) {
  return [count](PlanOptions& options) {
    options.microbatches = count;
    options.schedule = ScheduleKind::one_f_one_b;
  };
}

TEST_CASE("PyTorch, S-A and S-C: two linear layers, whole and in four micro-batches") {
  check_row({.goldens = "two-linear",
             .model = "two-linear",
             .inputs = {"x", "labels"},
             .loss = LossKind::mse,
             .optimizer = "sgd,lr=0.1",
             .pins = {{"layer1/", 0}, {"layer2/", 1}, {"loss/", 1}}},
            {microbatches(4)});
}

TEST_CASE("PyTorch, S-D and S-T: the classifier, whole and in micro-batches of 33, 33, 33 and 1 rows") {
  check_row({.goldens = "seqnet",
             .model = "seqnet",
             .inputs = {"x", "labels"},
             .labels = 10,
             .optimizer = "adam,lr=0.01",
             .pins = {{"lin1/", 0}, {"lin2/", 1}, {"loss/", 1}}},
            {[](PlanOptions& options) { options.microbatch_rows = 33; }});
}

TEST_CASE("PyTorch, S-E: the classifier with a sigmoid layer") {
  check_row({.goldens = "seqnet-ddp",
             .model = "seqnet-ddp",
             .inputs = {"x", "labels"},
             .labels = 10,
             .optimizer = "adam,lr=0.01",
             .pins = {{"lin1/", 0}, {"lin2/", 1}, {"lin3/", 1}, {"loss/", 1}}});
}

TEST_CASE("PyTorch, S-I: the convolutional classifier for images of both sizes, with an optimizer for each part") {
  for (const char* model : {"cnn-classifier", "cnn-classifier-32"}) {
    INFO(model);
    check_row({.goldens = model,
               .model = model,
               .inputs = {"x", "labels"},
               .labels = 10,
               .optimizer = "adam,lr=0.001",
               .groups = {"features/.*", "classifier/.*"},
               .pins = {{"features/", 0}, {"classifier/", 1}, {"loss/", 1}}});
  }
}

TEST_CASE(
    "PyTorch, S-J, S-K and S-L: encoder, decoder and classifier over sequences, whole and in eight micro-batches") {
  check_row({.goldens = "encoder-decoder",
             .model = "encoder-decoder",
             .inputs = {"ids", "labels"},
             .ids = 100,
             .labels = 10,
             .optimizer = "adam,lr=0.001",
             .groups = {"encoder/.*", "decoder/.*", "classifier/.*"},
             .pins = {{"encoder/", 0}, {"decoder/", 1}, {"classifier/", 2}, {"loss/", 2}},
             .devices = 3},
            {microbatches(8)});
}

TEST_CASE("PyTorch, S-M and S-N: a part before the model, without and with weights") {
  for (const char* model : {"hybrid", "hybrid-trainable"}) {
    INFO(model);
    check_row({.goldens = model,
               .model = model,
               .inputs = {"x", "labels"},
               .loss = LossKind::mse,
               .optimizer = "adam,lr=0.001",
               .pins = {{"preprocess/", 0}, {"model/", 1}, {"loss/", 1}}});
  }
}

TEST_CASE("PyTorch, S-O: two branches and their join") {
  check_row({.goldens = "branches",
             .model = "branches",
             .inputs = {"x", "labels"},
             .labels = 10,
             .optimizer = "sgd,lr=0.01",
             .pins = {{"branch_a/", 0}, {"branch_b/", 1}, {"join/", 2}, {"loss/", 2}},
             .devices = 3});
}

TEST_CASE("PyTorch, S-R: a residual block across cuts, and a value that skips two stages, with momentum") {
  check_row({.goldens = "residual-cut",
             .model = "residual-cut",
             .inputs = {"x", "labels"},
             .labels = 10,
             .optimizer = "momentum,lr=0.01",
             .pins = {{"stage0/", 0}, {"stage1/", 1}, {"stage2/", 2}, {"stage3/", 3}, {"loss/", 3}},
             .devices = 4});
}

TEST_CASE("PyTorch, S-S: one table as embedding and as output layer, without and with clipping") {
  for (const double clip_norm : {0.0, 0.05}) {
    INFO("clip norm ", clip_norm);
    check_row({.goldens = clip_norm > 0 ? "tied-embedding-clipped" : "tied-embedding",
               .model = "tied-embedding",
               .inputs = {"ids", "labels"},
               .ids = 100,
               .labels = 100,
               .optimizer = "adam,lr=0.01",
               .clip_norm = clip_norm,
               .pins = {{"embed/", 0}, {"body/", 0}, {"head/", 1}, {"loss/", 1}}});
  }
}

TEST_CASE("distance: sees an element of the sample, elements beside it, and what is not a number") {
  // Elements 0, 2, 4 of (3, -4, 0, 0, 0).
  const Golden golden = {{3, 0, 0}, 2, 5, -1, 5, 4};
  const auto of = [](const std::vector<double>& numbers) {
    std::vector<std::byte> bytes(numbers.size() * sizeof(double));
    for (size_t i = 0; i < numbers.size(); ++i) write_number(DType::f64, &bytes[i * sizeof(double)], numbers[i]);
    return Literal(DType::f64, Shape{static_cast<int64_t>(numbers.size())}, bytes);
  };
  CHECK(distance(of({3, -4, 0, 0, 0}), golden) == 0);
  CHECK(distance(of({3, -4, 0, 0, 1}), golden) == 0.25);                   // 1 of the largest, 4
  CHECK(distance(of({3, -4, 0, 5, 0}), golden) == doctest::Approx(0.25));  // the sum is off by 5 of 5 elements
  CHECK(distance(of({3, 4, 0, 0, 0}), golden) == doctest::Approx(0.4));    // a sign: the sum is off by 8
  CHECK(distance(of({3, -4, 0, 0, std::nan("")}), golden) == std::numeric_limits<double>::infinity());
  CHECK(distance(of({3, std::nan(""), 0, 0, 0}), golden) == std::numeric_limits<double>::infinity());
  const Golden zeros = {{0}, 1, 1, 0, 0, 0};
  CHECK(distance(of({0}), zeros) == 0);
  CHECK(distance(of({1e-300}), zeros) == std::numeric_limits<double>::infinity());
  CHECK_THROWS(distance(of({0, 0}), zeros));
}

}  // namespace
}  // namespace mpc::test
