// What cuBLASLt is asked for, without a GPU: a library of its name computes on the host what the descriptors mean
// (fake_cublaslt.h), and the results must be those of the op. So layouts, transposes, batches, epilogues, scales and
// pointers are shown; what is not: the real library's choices, its speed and its rounding.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cublasLt.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "compiler/base/checked.h"
#include "compiler/base/half.h"
#include "compiler/base/product_epilogue.h"
#include "compiler/base/random.h"
#include "compiler/ops/op_def.h"
#include "executor/cuda/cublaslt_product.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/library_kernels.h"
#include "tests/cuda/fake_cublaslt.h"
#include "tests/cuda/zoo_nodes.h"
#include "tests/ops/backends.h"
#include "tests/ops/sample.h"
#include "tests/unit/helpers.h"

namespace {

using namespace mpc;

test::FakeCublaslt& fake() {
  static const auto kEntry = reinterpret_cast<test::FakeCublasltEntry>(
      cuda::library_function(cuda::library(cuda::LibraryName::cublaslt), "mpc_fake_cublaslt"));
  return *kEntry();
}

cuda::LibraryHandle& handle() {
  static cuda::LibraryHandle made;
  return made;
}

bool is_product(OpKind op) {
  return op == OpKind::MatMul || op == OpKind::Gemm;
}

/// The product of the plugin: the library's kernel, else the plugin's own.
cuda::KernelOrReason product(const executor::NodeSpec& node, const cuda::MakeOptions& options) {
  cuda::KernelOrReason found = cuda::cublaslt_product(node, options, handle());
  return found.kernel != nullptr ? std::move(found) : cuda::find_own_kernel(node, options);
}

double relative_difference(const Literal& a, const Literal& b) {
  const std::vector<double> as = test::numbers_of(a);
  const std::vector<double> bs = test::numbers_of(b);
  if (as.size() != bs.size()) return INFINITY;
  double difference = 0;
  double total = 0;
  for (size_t i = 0; i < as.size(); ++i) {
    difference += (as[i] - bs[i]) * (as[i] - bs[i]);
    total += bs[i] * bs[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / total);
}

/// Runs all samples of products and of what is made of products, and compares with the reference kernels. Returns how
/// many kernels called the library.
int run_samples(int32_t microbatch) {
  const std::set<OpKind> ops = {OpKind::MatMul,        OpKind::Gemm,           OpKind::LSTM,
                                OpKind::LSTMInputGrad, OpKind::LSTMWeightGrad, OpKind::GRU,
                                OpKind::GRUInputGrad,  OpKind::GRUWeightGrad,  OpKind::GradAccumulate};
  int callers = 0;
  for (const samples::Sample& sample : samples::all_samples()) {
    if (!ops.contains(sample.op)) continue;
    CAPTURE(op_name(sample.op));
    CAPTURE(sample.name);
    Attributes attributes = sample.attributes;
    const test::Tensors inputs = samples::operands_of(sample);
    test::Types outputs = infer_types(sample.op, sample.name, attributes, test::types_of(inputs),
                                      static_cast<int>(sample.outputs.size()));
    for (size_t i = 0; i < sample.outputs.size(); ++i) {
      if (!sample.outputs[i]) outputs[i].reset();
    }
    fake().products.clear();
    fake().error.clear();
    const auto make = [&](const executor::NodeSpec& node) {
      const cuda::MakeOptions options{.product = product};
      return cuda::is_product(node) ? product(node, options) : cuda::find_own_kernel(node, options);
    };
    const StepContext step{.step = 2, .microbatch = microbatch, .seed = 42};
    const auto result = test::run_cuda_kernel(make, sample.op, attributes, inputs, outputs, step);
    CHECK(fake().error == "");
    REQUIRE(std::holds_alternative<test::Tensors>(result));
    const test::Tensors& found = std::get<test::Tensors>(result);
    const test::Tensors expected =
        test::run_reference(sample.op, attributes, inputs, outputs, {.step = step, .in_place = {}});
    for (size_t i = 0; i < expected.size(); ++i) {
      if (expected[i]) CHECK(relative_difference(*found[i], *expected[i]) <= sample.tolerance);
    }
    callers += fake().products.empty() ? 0 : 1;
  }
  return callers;
}

}  // namespace

TEST_CASE("cublaslt: samples of products, LSTM and GRU agree with the reference, with its epilogues and without") {
  fake() = {};
  const int callers = run_samples(1);
  CHECK(callers > 60);
  CHECK(run_samples(0) == callers);  // where sums over micro-batches begin
  fake() = {};
  fake().refused_epilogues = {CUBLASLT_EPILOGUE_RELU,      CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU_BIAS,
                              CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_BGRADA,
                              CUBLASLT_EPILOGUE_DGELU};
  CHECK(run_samples(1) == callers);
}

namespace {

/// Memory of a whole operand, of which the system only gives what is touched.
struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory untouched(int64_t bytes) {
  constexpr size_t kAlignment = 4096;
  const size_t whole = (static_cast<size_t>(bytes) / kAlignment + 1) * kAlignment;
  Memory memory(std::aligned_alloc(kAlignment, whole));
  REQUIRE(memory != nullptr);
  return memory;
}

double number_at(const void* memory, int64_t i, DType dtype) {
  if (dtype == DType::f32) return static_cast<double>(static_cast<const float*>(memory)[i]);
  if (dtype == DType::bf16) return static_cast<double>(to_float(static_cast<const bf16*>(memory)[i]));
  return static_cast<double>(to_float(static_cast<const f16*>(memory)[i]));
}

/// One place of random numbers for each operand of a node, filled as far as any node read it.
class Operands {
 public:
  explicit Operands(DType dtype) : dtype_(dtype) {}

  void* memory(size_t operand, int64_t elements) {
    if (operand >= all_.size()) all_.resize(operand + 1);
    Place& place = all_[operand];
    if (place.elements < elements) {
      place.memory = untouched(elements * dtype_bytes(dtype_));
      place.elements = elements;
      for (int64_t i = 0; i < elements; ++i) set(place.memory.get(), i, operand);
    }
    return place.memory.get();
  }

 private:
  struct Place {
    Memory memory;
    int64_t elements = 0;
  };
  void set(void* memory, int64_t i, size_t operand) const {
    const uint64_t bits = mix_bits(static_cast<uint64_t>(i) + (uint64_t{operand} << 40));
    const float number = static_cast<float>(static_cast<int64_t>(bits % 257) - 128) / 128.0F;  // exact in 16 bits
    if (dtype_ == DType::f32) static_cast<float*>(memory)[i] = number;
    if (dtype_ == DType::bf16) static_cast<bf16*>(memory)[i] = to_bf16(number);
    if (dtype_ == DType::f16) static_cast<f16*>(memory)[i] = to_f16(number);
  }
  DType dtype_;
  std::vector<Place> all_;
};

/// An element of a result as ONNX defines it, and the sum of the absolute values that it is made of.
struct Expected {
  double value;
  double magnitude;
};

int64_t broadcast_place(const Shape& from, const Shape& to, int64_t place) {
  int64_t at = 0;
  int64_t step = 1;
  for (int axis = 1; axis <= to.rank(); ++axis) {
    const int64_t index = place % to[to.rank() - axis];
    place /= to[to.rank() - axis];
    if (axis > from.rank()) continue;
    const int64_t extent = from[from.rank() - axis];
    at += (extent == 1 ? 0 : index) * step;
    step *= extent;
  }
  return at;
}

/// Element `place` of result 0 of a MatMul or Gemm, straight from the definition of the op. Operands of two dimensions
/// or more.
Expected element_of(const executor::NodeSpec& node, const std::vector<void*>& inputs, int64_t place) {
  const auto flag = [&](const char* name) { return node.attributes->has(name) && node.attributes->flag(name); };
  const auto number = [&](const char* name) {
    return node.attributes->has(name) ? node.attributes->number(name) : 1.0;
  };
  const Shape& a = node.inputs[0].shape;
  const Shape& b = node.inputs[1].shape;
  const Shape& y = node.outputs[0].shape;
  const int64_t columns = y[y.rank() - 1];
  const int64_t rows = y[y.rank() - 2];
  const int64_t column = place % columns;
  const int64_t row = place / columns % rows;
  const auto batch_of = [](const Shape& shape) {
    return Shape(shape.dims().first(static_cast<size_t>(shape.rank() - 2)));
  };
  const Shape y_batch = batch_of(y);
  const int64_t batch = place / columns / rows;
  const int64_t inner = a[a.rank() - (flag("transA") ? 2 : 1)];
  const int64_t a_begin = broadcast_place(batch_of(a), y_batch, batch) * rows * inner;
  const int64_t b_begin = broadcast_place(batch_of(b), y_batch, batch) * inner * columns;
  Expected result{0, 0};
  const auto add = [&](double value) {
    result.value += value;
    result.magnitude += std::abs(value);
  };
  for (int64_t k = 0; k < inner; ++k) {
    const int64_t a_at = a_begin + (flag("transA") ? k * rows + row : row * inner + k);
    const int64_t b_at = b_begin + (flag("transB") ? column * inner + k : k * columns + column);
    add(number("alpha") * number_at(inputs[0], a_at, node.inputs[0].dtype) *
        number_at(inputs[1], b_at, node.inputs[1].dtype));
  }
  const std::string activation = node.attributes->has("activation") ? node.attributes->text("activation") : "";
  const double root = std::sqrt(2.0 / 3.14159265358979323846);
  if (activation == kGeluGradient) {
    const double x = number_at(inputs[3], place, node.inputs[3].dtype);
    const double t = std::tanh(root * (x + 0.044715 * x * x * x));
    const double slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x);
    return {result.value * slope, result.magnitude * std::abs(slope)};
  }
  for (size_t i = 2; i < node.inputs.size(); ++i) {
    if (!node.inputs[i].is_present) continue;
    const double by = i == 2 ? number("beta") : 1.0;
    add(by * number_at(inputs[i], broadcast_place(node.inputs[i].shape, y, place), node.inputs[i].dtype));
  }
  if (!activation.empty()) {
    const double x = result.value;
    const double gelu = 0.5 * x * (1 + std::tanh(root * (x + 0.044715 * x * x * x)));
    result.value = activation == "Relu" ? std::max(x, 0.0) : gelu;
  }
  return result;
}

/// The same of result 1: the sum of a column of op(b).
Expected sum_of(const executor::NodeSpec& node, const std::vector<void*>& inputs, int64_t column) {
  const Shape& b = node.inputs[1].shape;
  const bool is_transposed = node.attributes->flag("transB");
  Expected result{0, 0};
  for (int64_t k = 0; k < b[is_transposed ? 1 : 0]; ++k) {
    const double value =
        number_at(inputs[1], is_transposed ? column * b[1] + k : k * b[1] + column, node.inputs[1].dtype);
    result.value += value;
    result.magnitude += std::abs(value);
  }
  return result;
}

/// The products of a node lie side by side and fill its result.
bool fill_result(std::vector<test::FakeProduct> products, const std::byte* result, int64_t bytes) {
  std::ranges::sort(products, {}, &test::FakeProduct::d);
  const std::byte* next = result;
  for (const test::FakeProduct& product : products) {
    if (product.d != next) return false;
    next += product.bytes;
  }
  return next == result + bytes;
}

/// Runs one node of a plan and compares random elements of its results with the definition of the op.
void check_product(const executor::NodeSpec& node, bool allows_tf32, Operands& wide, Operands& narrow) {
  const cuda::MakeOptions options{.allows_tf32 = allows_tf32, .product = {}};
  cuda::KernelOrReason found = cuda::cublaslt_product(node, options, handle());
  REQUIRE_MESSAGE(found.kernel != nullptr, found.reason);
  CHECK(found.kernel->name() == "cuda:cublaslt");
  std::vector<void*> inputs;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const executor::NodeSpec::Operand& operand = node.inputs[i];
    Operands& numbers = operand.dtype == DType::f32 ? wide : narrow;
    inputs.push_back(operand.is_present ? numbers.memory(i, operand.shape.elements()) : nullptr);
  }
  std::vector<Memory> results;
  std::vector<void*> outputs;
  for (const auto& output : node.outputs) {
    results.push_back(untouched(byte_size(output.shape, output.dtype)));
    outputs.push_back(output.is_present ? results.back().get() : nullptr);
  }
  std::vector<std::byte> workspace(static_cast<size_t>(found.kernel->workspace_bytes()));
  cuda::Launch launch;
  launch.inputs = inputs;
  launch.outputs = outputs;
  launch.workspace = workspace.data();
  fake().products.clear();
  fake().written.clear();
  found.kernel->run(launch);
  CHECK(fake().error == "");

  const DType result = node.outputs[0].dtype;
  const auto* y = static_cast<const std::byte*>(outputs[0]);
  const int64_t y_bytes = byte_size(node.outputs[0].shape, result);
  CHECK(fill_result(fake().products, y, y_bytes));
  for (const test::FakeProduct& call : fake().products) {
    const bool rounds = allows_tf32 && node.inputs[0].dtype == DType::f32;
    CHECK(call.compute_type == (rounds ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F));
    CHECK(call.scale_type == CUDA_R_32F);
  }
  // f64 rounded once to the type of the result; what is far from the border of two numbers is one of the two.
  const double unit = result == DType::f32 ? 0x1p-23 : result == DType::f16 ? 0x1p-10 : 0x1p-7;
  int compared = 0;
  for (const std::byte* at : fake().written) {
    const bool is_first = at >= y && at < y + y_bytes;
    const std::byte* begin = is_first ? y : static_cast<const std::byte*>(outputs[1]);
    const int64_t place = (at - begin) / dtype_bytes(result);
    const Expected expected = is_first ? element_of(node, inputs, place) : sum_of(node, inputs, place);
    const double value = number_at(at, 0, result);
    CHECK(std::abs(value - expected.value) <= unit * std::abs(expected.value) + 1e-12 * expected.magnitude + 0x1p-24);
    ++compared;
  }
  CHECK(compared >= 2);
}

std::vector<test::ZooCase> zoo_cases() {
  const auto sized = [](std::map<std::string, int64_t> sizes) {
    return zoo::Options{.batch = 2, .weights = false, .sizes = std::move(sizes)};
  };
  // One layer: they are alike. GPT-2 XL's products are those of GPT-2 in other sizes, and its operands too large.
  return {{"mlp", sized({})},
          {"resnet18", sized({})},
          {"vit-b", sized({{"layers", 1}})},
          {"bert-base", sized({{"layers", 1}})},
          {"gpt2", sized({{"layers", 1}, {"sequence", 128}})},
          {"llama", sized({{"layers", 1}})},
          {"moe", sized({{"layers", 1}})},
          {"encoder-decoder", sized({})}};
}

/// Returns how many products there are.
int check_zoo(Precision precision, DType low, bool allows_tf32 = false) {
  fake() = {};
  fake().samples = 24;  // of each result: a wrong layout puts a wrong number into nearly all of them
  Operands wide(DType::f32);
  Operands narrow(low);
  return test::for_each_zoo_node(zoo_cases(), precision, is_product, [&](const executor::NodeSpec& node) {
    check_product(node, allows_tf32, wide, narrow);
  });
}

}  // namespace

TEST_CASE("cublaslt: every product of the zoo's plans is asked for as the op means it, in f32 and tf32") {
  CHECK(check_zoo(Precision::f32, DType::f32) > 60);
  constexpr bool kAllowsTf32 = true;
  CHECK(check_zoo(Precision::f32, DType::f32, kAllowsTf32) > 60);
}

TEST_CASE("cublaslt: every product of the zoo's plans is asked for as the op means it, in bf16 and f16") {
  CHECK(check_zoo(Precision::bf16, DType::bf16) > 60);
  CHECK(check_zoo(Precision::f16, DType::f16) > 60);
}

TEST_CASE("cublaslt: an algorithm that was kept is taken again; what differs in anything is chosen anew") {
  fake() = {};
  const test::TemporaryFolder folder;
  const cuda::CodeCache cache(folder / "algorithms");
  cuda::LibraryHandle gpu;
  gpu.gpu = "one GPU";
  REQUIRE(cuda::cublaslt_api().cublasLtCreate(reinterpret_cast<cublasLtHandle_t*>(&gpu.handle)) ==
          CUBLAS_STATUS_SUCCESS);
  gpu.destroy = [](void* old) { cuda::cublaslt_api().cublasLtDestroy(static_cast<cublasLtHandle_t>(old)); };
  cuda::ProductShape shape;
  shape.rows = 4;
  shape.columns = 5;
  shape.inner = 6;
  int asked = 0;
  const auto asks = [&](const cuda::MakeOptions& options) {
    const int before = fake().heuristics;
    const cuda::CublasltProduct made(shape, {}, {}, options, gpu, cache);
    CHECK(made.has_algorithm());
    CHECK(made.workspace_bytes() > 0);
    asked = fake().heuristics - before;
    return asked == 1;
  };
  const cuda::MakeOptions strict;
  cuda::MakeOptions rounded;
  rounded.allows_tf32 = true;
  CHECK(asks(strict));
  CHECK(!asks(strict));
  CHECK(asks(rounded));
  CHECK(!asks(rounded));
  shape.has_bias = true;
  CHECK(asks(strict));
  shape.has_bias = false;
  shape.trans_b = true;
  CHECK(asks(strict));
  shape.trans_b = false;
  shape.inner = 7;
  CHECK(asks(strict));
  shape.inner = 6;
  gpu.gpu = "another GPU";
  CHECK(asks(strict));
  gpu.gpu = "one GPU";
  CHECK(!asks(strict));
}

int main(int argc, char** argv) {
  setenv("MPC_CUDA_LIBS", MPC_FAKE_LIBRARIES, 1);
  setenv("MPC_CUDA_CACHE", "none", 1);  // what is kept is tested on its own
  doctest::Context context(argc, argv);
  return context.run();
}
