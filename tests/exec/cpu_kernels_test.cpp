#include "executor/cpu/cpu_kernels.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "executor/cpu/row_math.h"
#include "executor/cpu/vector_math.h"
#include "executor/kernel.h"
#include "tests/exec/models.h"

// What conformance does not see: accuracy of the vectorized functions over their whole range, threads, caches,
// refusals.

namespace mpc::cpu {
namespace {

using executor::KernelOrReason;
using executor::NodeSpec;

struct Tensor {
  Tensor(const Shape& shape_in, std::vector<float> numbers_in) : shape(shape_in), numbers(std::move(numbers_in)) {}
  Tensor(const std::string& name, const Shape& shape_in) : Tensor(shape_in, test::numbers(name, shape_in.elements())) {}
  TensorView view() { return {DType::f32, shape, reinterpret_cast<std::byte*>(numbers.data())}; }
  Shape shape;
  std::vector<float> numbers;
};

NodeSpec spec_of(OpKind op, const Attributes& attributes, const std::vector<Tensor*>& inputs,
                 const std::vector<Tensor*>& outputs) {
  NodeSpec spec;
  spec.op = op;
  spec.attributes = &attributes;
  for (const Tensor* input : inputs) spec.inputs.push_back({DType::f32, input->shape, true, false});
  for (const Tensor* output : outputs) spec.outputs.push_back({DType::f32, output->shape, true, false});
  return spec;
}

void run(executor::Kernel& kernel, const Attributes& attributes, const std::vector<Tensor*>& inputs,
         const std::vector<Tensor*>& outputs) {
  std::vector<TensorView> in, out;
  for (Tensor* input : inputs) in.push_back(input->view());
  for (Tensor* output : outputs) out.push_back(output->view());
  kernel.run({attributes, in, out, {}, {}});
}

/// The largest error of `fast` relative to `exact` over [low, high].
double worst_relative_error(float low, float high, float (*fast)(float), double (*exact)(double)) {
  double worst = 0;
  constexpr int kPoints = 200001;
  for (int i = 0; i < kPoints; ++i) {
    const float x = low + (high - low) * static_cast<float>(i) / (kPoints - 1);
    const double expected = exact(static_cast<double>(x));
    if (expected != 0)
      worst = std::max(worst, std::fabs(static_cast<double>(fast(x)) - expected) / std::fabs(expected));
  }
  return worst;
}

TEST_CASE("cpu kernels: the vectorized functions keep the errors that they state") {
  CHECK(worst_relative_error(-87, 88, &fast_exp, [](double x) { return std::exp(x); }) < 2e-7);
  CHECK(worst_relative_error(-80, 80, &fast_sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }) < 4e-7);
  CHECK(worst_relative_error(-20, 20, &fast_tanh, [](double x) { return std::tanh(x); }) < 5e-7);
  double worst_erf = 0;
  for (float x = -6; x < 6; x += 1e-4f) {
    worst_erf = std::max(worst_erf, std::fabs(static_cast<double>(fast_erf(x)) - std::erf(static_cast<double>(x))));
  }
  CHECK(worst_erf < 5e-7);
}

TEST_CASE("cpu kernels: the vectorized functions keep NaN, infinities and limits") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(std::isnan(fast_exp(nan)));
  CHECK(std::isnan(fast_sigmoid(nan)));
  CHECK(std::isnan(fast_tanh(nan)));
  CHECK(std::isnan(fast_erf(nan)));
  CHECK(fast_exp(-infinity) == 0.0f);
  CHECK(fast_exp(infinity) == infinity);
  CHECK(fast_exp(0.0f) == 1.0f);
  CHECK(fast_sigmoid(infinity) == 1.0f);
  CHECK(fast_sigmoid(-infinity) == 0.0f);
  CHECK(fast_tanh(infinity) == 1.0f);
  CHECK(fast_tanh(-infinity) == -1.0f);
  CHECK(fast_erf(infinity) == 1.0f);
}

TEST_CASE("cpu kernels: sums of rows are those of f64, for every count around the vector's") {
  for (int64_t count = 1; count < 70; ++count) {
    const std::vector<float> x = test::numbers("x", count);
    double sum = 0;
    double squares = 0;
    float largest = x[0];
    for (const float value : x) {
      sum += static_cast<double>(value);
      squares += (static_cast<double>(value) - 0.5) * (static_cast<double>(value) - 0.5);
      largest = std::max(largest, value);
    }
    // At most 70 numbers below 1, added in f32 in 16 lanes of 5: 5 * 2^-24 each.
    CHECK(std::fabs(row_sum(x.data(), count) - sum) < 1e-5);
    CHECK(std::fabs(row_square_sum(x.data(), 0.5f, count) - squares) < 4e-5);
    CHECK(row_max(x.data(), count) == largest);
  }
  std::vector<float> with_nan = test::numbers("x", 40);
  for (const size_t at : {size_t{0}, size_t{17}, size_t{39}}) {
    std::vector<float> x = with_nan;
    x[at] = std::nanf("");
    CHECK(std::isnan(row_max(x.data(), 40)));
    CHECK(std::isnan(row_min(x.data(), 40)));
  }
}

TEST_CASE("cpu kernels: elementwise results do not depend on the number of threads") {
  const Shape shape{300, 301};
  Tensor a("a", shape), b("b", Shape{301}), one(shape, std::vector<float>(300 * 301)), three = one;
  for (const OpKind op : {OpKind::Add, OpKind::Div}) {
    const Attributes none;
    NodeSpec spec = spec_of(op, none, {&a, &b}, {&one});
    run(*find_kernel(spec).kernel, none, {&a, &b}, {&one});
    spec.threads = 3;
    run(*find_kernel(spec).kernel, none, {&a, &b}, {&three});
    CHECK(one.numbers == three.numbers);
  }
}

TEST_CASE("cpu kernels: a result may take the bytes of its operand") {
  const Attributes none;
  const Shape shape{1000};
  Tensor x("x", shape), y(shape, std::vector<float>(1000)), other("b", shape);
  for (const OpKind op : {OpKind::Tanh, OpKind::Relu, OpKind::Sqrt}) {
    const KernelOrReason found = find_kernel(spec_of(op, none, {&x}, {&y}));
    REQUIRE(found.kernel != nullptr);
    run(*found.kernel, none, {&x}, {&y});
    Tensor in_place = x;
    run(*found.kernel, none, {&in_place}, {&in_place});
    CHECK(std::memcmp(in_place.numbers.data(), y.numbers.data(), 4000) == 0);
  }
  const KernelOrReason found = find_kernel(spec_of(OpKind::Sub, none, {&other, &x}, {&y}));
  run(*found.kernel, none, {&other, &x}, {&y});
  Tensor in_place = x;
  run(*found.kernel, none, {&other, &in_place}, {&in_place});
  CHECK(in_place.numbers == y.numbers);
}

TEST_CASE("cpu kernels: a node without a fast kernel is declined with a reason") {
  const Attributes none;
  Tensor x("x", Shape{4}), y = x;
  NodeSpec spec = spec_of(OpKind::Relu, none, {&x}, {&y});
  spec.inputs[0].dtype = spec.outputs[0].dtype = DType::i32;
  const KernelOrReason integers = find_kernel(spec);
  CHECK(integers.kernel == nullptr);
  CHECK(integers.reason == "elementwise loops: only f32 and f64");
  const KernelOrReason unknown = find_kernel(spec_of(OpKind::CumSum, none, {&x}, {&y}));
  CHECK(unknown.kernel == nullptr);
  CHECK(!unknown.reason.empty());
}

TEST_CASE("cpu kernels: a convolution keeps constant weights only until they are said to have changed") {
  const Attributes attributes = {{"group", int64_t{1}},
                                 {"dilations", std::vector<int64_t>{1, 1}},
                                 {"kernel_shape", std::vector<int64_t>{3, 3}},
                                 {"pads", std::vector<int64_t>{1, 1, 1, 1}},
                                 {"strides", std::vector<int64_t>{1, 1}}};
  // 32 channels: enough for a blocked layout, so that there is something to keep.
  Tensor x("x", Shape{1, 32, 6, 6}), w("w", Shape{32, 32, 3, 3}), y(Shape{1, 32, 6, 6}, std::vector<float>(32 * 36));
  NodeSpec spec = spec_of(OpKind::Conv, attributes, {&x, &w}, {&y});
  spec.inputs[1].is_constant = true;
  const KernelOrReason found = find_kernel(spec);
  if (found.kernel == nullptr) {
    MESSAGE("skipped: " << found.reason);
    return;
  }
  const auto expected = [&] {
    Tensor reference = y;
    TensorView in[] = {x.view(), w.view()};
    TensorView out[] = {reference.view()};
    reference_kernel(OpKind::Conv)({attributes, in, out, {}, {}});
    return reference.numbers;
  };
  const auto check_close = [&](const std::vector<float>& numbers) {
    // 288 products of numbers below 1 in f32.
    for (size_t i = 0; i < numbers.size(); ++i) CHECK(std::fabs(y.numbers[i] - numbers[i]) < 1e-4f);
  };
  run(*found.kernel, attributes, {&x, &w}, {&y});
  check_close(expected());
  w.numbers = test::numbers("other weights", 32 * 32 * 9);
  found.kernel->forget_constants();
  run(*found.kernel, attributes, {&x, &w}, {&y});
  check_close(expected());
}

}  // namespace
}  // namespace mpc::cpu
