#include "executor/measure_kernel.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <vector>

#include "compiler/base/random.h"
#include "executor/cpu/cpu_kernels.h"
#include "executor/host/arena.h"
#include "executor/host/float_environment.h"
#include "executor/host/threads.h"

namespace mpc::executor {
namespace {

constexpr int64_t kAlignment = 256;  // as in plans: kernels may rely on 64

int64_t aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

double now_s(int threads) {
  timespec time{};
  ::clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  constexpr double kNano = 1e-9;
  return static_cast<double>(time.tv_sec) + kNano * static_cast<double>(time.tv_nsec);
}

template <class T>
void fill_numbers(TensorView view, uint64_t stream, bool is_floating, int64_t least, int64_t integers) {
  T* out = view.as<T>();
  const int64_t count = view.bytes() / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = mix_bits(stream + static_cast<uint64_t>(i));
    // In [0.25, 1): away from what makes roots, logarithms and quotients slow or infinite.
    const double number = 0.25 + 0.75 * static_cast<double>(bits >> 11) * 0x1p-53;
    const int64_t index = least + static_cast<int64_t>(bits % static_cast<uint64_t>(integers));
    out[i] = is_floating ? static_cast<T>(number) : static_cast<T>(index);
  }
}

/// Content for an operand; 16-bit floats get a pattern of numbers near 1.
void fill(TensorView view, uint64_t stream, int64_t least, int64_t integers) {
  constexpr uint16_t kOneHalf = 0x3C00;
  constexpr uint16_t kOneBrain = 0x3F80;
  switch (view.dtype) {
    case DType::f32:
      return fill_numbers<float>(view, stream, true, 0, 1);
    case DType::f64:
      return fill_numbers<double>(view, stream, true, 0, 1);
    case DType::f16:
      std::fill_n(view.as<uint16_t>(), view.bytes() / 2, kOneHalf);
      return;
    case DType::bf16:
      std::fill_n(view.as<uint16_t>(), view.bytes() / 2, kOneBrain);
      return;
    case DType::boolean:
      return fill_numbers<uint8_t>(view, stream, false, 0, 2);
    case DType::i8:
    case DType::u8:
      return fill_numbers<uint8_t>(view, stream, false, least, std::min<int64_t>(integers, 127));
    case DType::i16:
    case DType::u16:
      return fill_numbers<uint16_t>(view, stream, false, least, std::min<int64_t>(integers, 32767));
    case DType::i32:
    case DType::u32:
      return fill_numbers<int32_t>(view, stream, false, least, integers);
    case DType::i64:
    case DType::u64:
      return fill_numbers<int64_t>(view, stream, false, least, integers);
  }
}

/// Operands of one node in memory of their own.
class Operands {
 public:
  Operands(const NodeSpec& spec, int64_t workspace_bytes, const MeasureOptions& options)
      : arena_("cpu", total_bytes(spec, workspace_bytes)) {
    for (size_t i = 0; i < spec.inputs.size(); ++i) {
      inputs.push_back(place(spec.inputs[i]));
      if (inputs.back().data != nullptr)
        fill(inputs.back(), i << 32, options.least_integer, std::max<int64_t>(1, options.integers));
    }
    for (size_t i = 0; i < spec.outputs.size(); ++i) {
      const std::optional<int> alias = aliased_input(spec.op, static_cast<int>(i));
      // A Reshape hands on the bytes of its operand; a copy is what only a plan with another reader makes.
      const bool is_in_place = alias.has_value() || spec.op == OpKind::Reshape;
      outputs.push_back(
          place(spec.outputs[i], is_in_place ? inputs[static_cast<size_t>(alias.value_or(0))].data : nullptr));
    }
    workspace = {arena_.data() + used_, static_cast<size_t>(workspace_bytes)};
  }

  std::vector<TensorView> inputs;
  std::vector<TensorView> outputs;
  std::span<std::byte> workspace;

 private:
  static int64_t total_bytes(const NodeSpec& spec, int64_t workspace_bytes) {
    int64_t bytes = aligned(workspace_bytes);
    for (const auto* list : {&spec.inputs, &spec.outputs}) {
      for (const NodeSpec::Operand& operand : *list) bytes += aligned(byte_size(operand.shape, operand.dtype));
    }
    return std::max(bytes, kAlignment);
  }

  TensorView place(const NodeSpec::Operand& operand, std::byte* at = nullptr) {
    if (!operand.is_present) return {};
    TensorView view{operand.dtype, operand.shape, at};
    if (at == nullptr) {
      view.data = arena_.data() + used_;
      used_ += aligned(view.bytes());
    }
    return view;
  }

  Arena arena_;
  int64_t used_ = 0;
};

}  // namespace

double measure_host_kernel(const NodeSpec& spec, int64_t workspace_bytes, const MeasureOptions& options) {
  const FloatEnvironment floats;
  const OpenMpThreads threads(spec.threads);
  Operands operands(spec, workspace_bytes, options);
  const KernelOrReason found = cpu::find_kernel(spec);
  // The second micro-batch: an accumulation adds, as it does in all but the first.
  const KernelCall call{*spec.attributes, operands.inputs, operands.outputs, {0, 1, 0}, operands.workspace};
  std::vector<double> seconds;
  double all = 0;
  for (int i = -1; i < options.most_calls; ++i) {
    const double start = now_s(spec.threads);
    if (found.kernel != nullptr) {
      found.kernel->run(call);
    } else {
      reference_kernel(spec.op)(call);
    }
    const double taken = now_s(spec.threads) - start;
    if (i < 0) continue;
    seconds.push_back(taken);
    all += taken;
    if (all >= options.least_seconds && static_cast<int>(seconds.size()) >= options.least_calls) break;
  }
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

}  // namespace mpc::executor
