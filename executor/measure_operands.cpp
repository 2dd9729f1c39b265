#include "executor/measure_operands.h"

#include <algorithm>
#include <optional>

#include "compiler/base/random.h"

namespace mpc::executor {
namespace {

constexpr int64_t kAlignment = 256;  // as in plans: kernels may rely on 64

int64_t aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
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

/// 16-bit floats: `count` bit patterns in a row, from `first`, are those in [0.25, 1).
void fill_patterns(TensorView view, uint64_t stream, uint16_t first, uint16_t count) {
  uint16_t* out = view.as<uint16_t>();
  for (int64_t i = 0; i < view.bytes() / 2; ++i) {
    out[i] = static_cast<uint16_t>(first + mix_bits(stream + static_cast<uint64_t>(i)) % count);
  }
}

/// Content for an operand: random, since a GPU's units are faster on numbers that are all alike.
void fill(TensorView view, uint64_t stream, int64_t least, int64_t integers) {
  switch (view.dtype) {
    case DType::f32:
      return fill_numbers<float>(view, stream, true, 0, 1);
    case DType::f64:
      return fill_numbers<double>(view, stream, true, 0, 1);
    case DType::f16:
      return fill_patterns(view, stream, 0x3400, 0x0800);
    case DType::bf16:
      return fill_patterns(view, stream, 0x3E80, 0x0100);
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
int64_t total_bytes(const NodeSpec& spec, int64_t workspace_bytes) {
  int64_t bytes = aligned(workspace_bytes);
  for (const auto* list : {&spec.inputs, &spec.outputs}) {
    for (const NodeSpec::Operand& operand : *list) bytes += aligned(byte_size(operand.shape, operand.dtype));
  }
  return std::max(bytes, kAlignment);
}

}  // namespace

MeasuredOperands::MeasuredOperands(const NodeSpec& spec, int64_t workspace_bytes, const MeasureOptions& options)
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

void MeasuredOperands::move_to(std::byte* memory) {
  for (auto* list : {&inputs, &outputs}) {
    for (TensorView& view : *list) {
      if (view.data != nullptr) view.data = memory + (view.data - arena_.data());
    }
  }
}

TensorView MeasuredOperands::place(const NodeSpec::Operand& operand, std::byte* at) {
  if (!operand.is_present) return {};
  TensorView view{operand.dtype, operand.shape, at};
  if (at == nullptr) {
    view.data = arena_.data() + used_;
    used_ += aligned(view.bytes());
  }
  return view;
}

}  // namespace mpc::executor
