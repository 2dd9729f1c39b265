#include "tests/exec/models.h"

#include <cstring>

#include "compiler/base/random.h"
#include "tests/exec/plan_maker.h"

namespace mpc::test {
namespace {

constexpr int64_t kFeatures = 6;
constexpr int64_t kHidden = 5;
constexpr int64_t kResults = 4;
constexpr double kLearningRate = 0.01;

Attributes gemm(bool trans_a, bool trans_b) {
  return {{"alpha", 1.0}, {"beta", 1.0}, {"transA", int64_t{trans_a}}, {"transB", int64_t{trans_b}}};
}

PlanMaker::NodeOptions options(const Attributes& attributes, PlanPhase phase = PlanPhase::forward,
                               bool per_step = false) {
  PlanMaker::NodeOptions result;
  result.attributes = attributes;
  result.phase = phase;
  result.per_step = per_step;
  return result;
}

PlanIndex unary_grad(PlanMaker& maker, int device, PlanIndex dy, PlanIndex x, PlanIndex y) {
  const Attributes attributes = {{"function", std::string("Relu")}};
  return maker.node(OpKind::UnaryGrad, "dh", device, {dy, x, y}, {kRows, kHidden},
                    options(attributes, PlanPhase::input_grad));
}

void train(PlanMaker& maker, const std::string& name, int device, PlanIndex parameter, PlanIndex gradient,
           const PlanMaker::Dims& dims, PlanIndex step, PlanIndex scale) {
  const PlanIndex accumulator = maker.state(name + "/acc", Literal::splat_number(DType::f32, Shape(dims), 0));
  const PlanIndex sum = maker.node(OpKind::GradAccumulate, name + "/grad", device, {gradient, accumulator}, dims,
                                   options({}, PlanPhase::weight_grad));
  const Attributes sgd = {{"lr", kLearningRate}, {"weight_decay", 0.0}};
  const PlanIndex next = maker.node(OpKind::SgdUpdate, name + "/next", device, {parameter, sum, step, scale, kNone},
                                    dims, options(sgd, PlanPhase::update, true));
  maker.plan.updates.push_back({parameter, next});
  maker.plan.updates.push_back({accumulator, sum});
  maker.plan.gradients.push_back({parameter, sum});
}

}  // namespace

std::vector<float> numbers(const std::string& name, int64_t count) {
  RandomStream stream;
  for (const char c : name) stream.user = mix_bits(stream.user + static_cast<unsigned char>(c));
  std::vector<float> result(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) result[static_cast<size_t>(i)] = 2 * unit_float(random_word(stream, i)) - 1;
  return result;
}

std::span<const std::byte> bytes_of(const std::vector<float>& numbers) {
  return std::as_bytes(std::span(numbers));
}

void NumberedWeights::read(const std::string& name, int64_t offset, std::span<std::byte> out) const {
  const int64_t end = offset + static_cast<int64_t>(out.size());
  const std::vector<float> content = numbers(name, (end + 3) / 4);
  std::memcpy(out.data(), bytes_of(content).data() + offset, out.size());
}

Plan forward_plan(const Placement& placement, const Batches& batches) {
  PlanMaker maker(placement.device_count, batches.microbatches, batches.batch, batches.microbatch_rows);
  const PlanIndex x = maker.input("x", DType::f32, {kRows, kFeatures});
  const PlanIndex a = maker.parameter("A", {kFeatures, kHidden});
  const PlanIndex b = maker.parameter("B", {kHidden, kResults});
  const PlanIndex xa =
      maker.node(OpKind::Gemm, "xa", placement.first, {x, a, kNone}, {kRows, kHidden}, options(gemm(false, false)));
  const PlanIndex h = maker.node(OpKind::Relu, "h", placement.second, {xa}, {kRows, kHidden});
  const PlanIndex y =
      maker.node(OpKind::Gemm, "y", placement.third, {h, b, kNone}, {kRows, kResults}, options(gemm(false, false)));
  maker.output("y", y, PlanOutput::Combine::concatenate);
  return maker.finish();
}

Plan training_plan(const Placement& placement, const Batches& batches) {
  PlanMaker maker(placement.device_count, batches.microbatches, batches.batch, batches.microbatch_rows);
  const auto [count, first, second, third] = placement;
  const PlanIndex x = maker.input("x", DType::f32, {kRows, kFeatures});
  const PlanIndex step = maker.supplied("step", PlanInput::Role::step, DType::i64);
  const PlanIndex scale = maker.supplied("lr_scale", PlanInput::Role::learning_rate_scale, DType::f32);
  const PlanIndex a = maker.parameter("A", {kFeatures, kHidden});
  const PlanIndex b = maker.parameter("B", {kHidden, kResults});
  const PlanIndex half = maker.constant("half", Literal::scalar(DType::f32, 0.5));
  const auto make = [&](OpKind op, const char* name, int device, std::vector<PlanIndex> inputs, PlanMaker::Dims dims,
                        Attributes attributes, PlanPhase phase) {
    return maker.node(op, name, device, inputs, dims, options(attributes, phase));
  };
  const PlanPhase forward = PlanPhase::forward;
  const PlanIndex xa = make(OpKind::Gemm, "xa", first, {x, a, kNone}, {kRows, kHidden}, gemm(false, false), forward);
  const PlanIndex h = make(OpKind::Relu, "h", second, {xa}, {kRows, kHidden}, {}, forward);
  const PlanIndex y = make(OpKind::Gemm, "y", third, {h, b, kNone}, {kRows, kResults}, gemm(false, false), forward);
  const PlanIndex square = make(OpKind::Mul, "square", third, {y, y}, {kRows, kResults}, {}, forward);
  const Attributes all_axes = {
      {"axes", std::vector<int64_t>{0, 1}}, {"keepdims", int64_t{0}}, {"noop_with_empty_axes", int64_t{0}}};
  const PlanIndex sum = make(OpKind::ReduceSum, "sum", third, {square}, {}, all_axes, forward);
  const PlanIndex loss = make(OpKind::Mul, "loss", third, {sum, half}, {}, {}, forward);
  const PlanIndex db =
      make(OpKind::Gemm, "dB", third, {h, y, kNone}, {kHidden, kResults}, gemm(true, false), PlanPhase::weight_grad);
  const PlanIndex dr =
      make(OpKind::Gemm, "dr", third, {y, b, kNone}, {kRows, kHidden}, gemm(false, true), PlanPhase::input_grad);
  const PlanIndex dh = unary_grad(maker, second, dr, xa, h);
  const PlanIndex da =
      make(OpKind::Gemm, "dA", first, {x, dh, kNone}, {kFeatures, kHidden}, gemm(true, false), PlanPhase::weight_grad);
  train(maker, "B", third, b, db, {kHidden, kResults}, step, scale);
  train(maker, "A", first, a, da, {kFeatures, kHidden}, step, scale);
  maker.output("y", y, PlanOutput::Combine::concatenate);
  maker.output("loss", loss, PlanOutput::Combine::sum);
  maker.plan.is_training = true;
  maker.plan.loss = 1;
  return maker.finish();
}

}  // namespace mpc::test
