// Operators in 16 bits by their f32 kernels: operands are widened, results rounded once. Their reference kernels do the
// same, but one element at a time.

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compiler/base/half.h"
#include "executor/cpu/cpu_kernels.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kGrain = 16'384;
constexpr int64_t kAlignment = 64;

bool is_half(DType dtype) {
  return dtype == DType::f16 || dtype == DType::bf16;
}

// Elements are taken and put by their bits: a loop over structs stays scalar.
MPC_CLONES void widen(const bf16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(bf16{from[i].bits});
}
MPC_CLONES void widen(const f16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(f16{from[i].bits});
}
MPC_CLONES void narrow(const float* from, bf16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i].bits = to_bf16(from[i]).bits;
}
MPC_CLONES void narrow(const float* from, f16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i].bits = to_f16(from[i]).bits;
}

/// Elements of two tensors, of f32 and of 16 bits, one of them each.
void convert_run(const TensorView& from, int64_t from_begin, const TensorView& to, int64_t to_begin, int64_t count) {
  if (from.dtype == DType::bf16) widen(from.as<const bf16>() + from_begin, to.as<float>() + to_begin, count);
  if (from.dtype == DType::f16) widen(from.as<const f16>() + from_begin, to.as<float>() + to_begin, count);
  if (to.dtype == DType::bf16) narrow(from.as<const float>() + from_begin, to.as<bf16>() + to_begin, count);
  if (to.dtype == DType::f16) narrow(from.as<const float>() + from_begin, to.as<f16>() + to_begin, count);
}

void convert(const TensorView& from, const TensorView& to, int threads) {
  parallel_for(threads, from.shape.elements(), kGrain,
               [&](int64_t begin, int64_t end) { convert_run(from, begin, to, begin, end - begin); });
}

/// Parts side by side in the last dimension of `whole`.
void convert_joined(std::span<const TensorView> parts, const TensorView& whole, int threads) {
  const int axis = whole.shape.rank() - 1;
  int64_t begin = 0;
  for (const TensorView& part : parts) {
    const int64_t columns = part.shape[axis];
    const int64_t grain = 1 + kGrain / std::max<int64_t>(columns, 1);
    parallel_for(threads, part.shape.elements(0, axis), grain, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row)
        convert_run(part, row * columns, whole, row * whole.shape[axis] + begin, columns);
    });
    begin += columns;
  }
}

int64_t wide_bytes(const Shape& shape) {
  const int64_t bytes = shape.elements() * static_cast<int64_t>(sizeof(float));
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

class Widened final : public Kernel {
 public:
  Widened(std::unique_ptr<Kernel> kernel, int threads)
      : kernel_(std::move(kernel)), threads_(threads), name_(std::string(kernel_->name()) + ", widened") {}

  void run(const KernelCall& call) override {
    int64_t bytes = 0;
    for (const auto& operands : {call.inputs, call.outputs}) {
      for (const TensorView& operand : operands) bytes += is_wide(operand) ? 0 : wide_bytes(operand.shape);
    }
    std::byte* next = thread_scratch(bytes, Scratch::widened).data();
    const auto wide_of = [&](const TensorView& operand) {
      if (is_wide(operand)) return operand;
      const TensorView wide{DType::f32, operand.shape, next};
      next += wide_bytes(operand.shape);
      return wide;
    };
    std::vector<TensorView> inputs, outputs;
    for (const TensorView& input : call.inputs) {
      inputs.push_back(wide_of(input));
      if (!is_wide(input)) convert(input, inputs.back(), threads_);
    }
    for (const TensorView& output : call.outputs) outputs.push_back(wide_of(output));
    kernel_->run({call.attributes, inputs, outputs, call.step, call.workspace});
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!is_wide(call.outputs[i])) convert(outputs[i], call.outputs[i], threads_);
    }
  }
  void forget_constants() override { kernel_->forget_constants(); }
  int64_t kept_bytes() const override { return kernel_->kept_bytes(); }
  std::string_view name() const override { return name_; }

 private:
  static bool is_wide(const TensorView& operand) { return operand.data == nullptr || !is_half(operand.dtype); }

  std::unique_ptr<Kernel> kernel_;
  int threads_;
  std::string name_;
};

}  // namespace

KernelOrReason widened(const NodeSpec& node) {
  const bool is_norm_grad = node.op == OpKind::LayerNormalizationGrad || node.op == OpKind::RMSNormalizationGrad;
  if (is_norm_grad && has_input(node, 3) && has_output(node, 0) && is_half(node.outputs[0].dtype))
    return declined("widened to f32: the result is rounded before the sum");
  NodeSpec wide = node;
  bool has_half = false;
  for (auto* operands : {&wide.inputs, &wide.outputs}) {
    for (NodeSpec::Operand& operand : *operands) {
      if (!operand.is_present || !is_half(operand.dtype)) continue;
      has_half = true;
      operand.dtype = DType::f32;
      operand.is_constant = false;  // its wide copy does not last
    }
  }
  if (!has_half) return declined({});
  KernelOrReason found = find_kernel(wide);
  if (found.kernel == nullptr) return declined("widened to f32: " + found.reason);
  return {std::make_unique<Widened>(std::move(found.kernel), node.threads), {}};
}

/// Casts that one C++ conversion is, defined for every value: each rounds at most once, as the reference does.
struct PlainCast {
  DType from;
  DType to;
  void (*run)(const KernelCall& call, int threads);
};

template <class From, class To>
void cast_elements(const KernelCall& call, int threads) {
  const From* from = call.inputs[0].as<From>();
  To* to = call.outputs[0].as<To>();
  parallel_for(threads, call.outputs[0].shape.elements(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<To>(from[i]);
  });
}

/// A bool is a byte, and true whatever is in it but 0.
template <class To>
void cast_booleans(const KernelCall& call, int threads) {
  const auto* from = call.inputs[0].as<uint8_t>();
  To* to = call.outputs[0].as<To>();
  parallel_for(threads, call.outputs[0].shape.elements(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = from[i] != 0 ? To{1} : To{0};
  });
}

constexpr PlainCast kPlainCasts[] = {
    {DType::boolean, DType::f32, cast_booleans<float>},        {DType::boolean, DType::i32, cast_booleans<int32_t>},
    {DType::boolean, DType::i64, cast_booleans<int64_t>},      {DType::u8, DType::f32, cast_elements<uint8_t, float>},
    {DType::i32, DType::f32, cast_elements<int32_t, float>},   {DType::i64, DType::f32, cast_elements<int64_t, float>},
    {DType::i32, DType::i64, cast_elements<int32_t, int64_t>}, {DType::f32, DType::f64, cast_elements<float, double>},
    {DType::f64, DType::f32, cast_elements<double, float>}};

KernelOrReason cast_loop(const NodeSpec& node) {
  const DType from = node.inputs[0].dtype;
  const DType to = node.outputs[0].dtype;
  const bool is_alone = node.outputs.size() == 1 && !node.attributes->has("joined");
  for (const PlainCast& cast : kPlainCasts) {
    if (is_alone && cast.from == from && cast.to == to) return plain_kernel("cpu:cast", cast.run, node.threads);
  }
  if (!(from == DType::f32 && is_half(to)) && !(is_half(from) && to == DType::f32))
    return declined("casts in loops: not between these types");
  return plain_kernel(
      "cpu:cast",
      [](const KernelCall& call, int threads) {
        const bool is_joined = call.attributes.has("joined");
        size_t first = 0;
        for (size_t i = 0; i < call.outputs.size(); ++i) {
          const size_t count = is_joined ? static_cast<size_t>(call.attributes.integers("joined")[i]) : 1;
          const auto parts = call.inputs.subspan(first, count);
          first += count;
          if (!call.has_output(i)) continue;
          if (is_joined) {
            convert_joined(parts, call.outputs[i], threads);
          } else {
            convert(parts[0], call.outputs[i], threads);
          }
        }
      },
      node.threads);
}

}  // namespace mpc::cpu
