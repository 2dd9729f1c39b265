#include "executor/rounded_weights.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/half.h"

namespace mpc {

bool is_kept_from(DType from, DType to) {
  return from == to || (from == DType::f32 && (to == DType::f16 || to == DType::bf16));
}

void round_numbers(std::span<const std::byte> from, DType dtype, std::span<std::byte> to) {
  const size_t count = from.size() / sizeof(float);
  for (size_t i = 0; i < count; ++i) {
    float number = 0;
    std::memcpy(&number, from.data() + i * sizeof(float), sizeof(float));
    if (dtype == DType::bf16) {
      const bf16 rounded = to_bf16(number);
      std::memcpy(to.data() + i * sizeof(rounded), &rounded, sizeof(rounded));
    } else {
      const f16 rounded = to_f16(number);
      std::memcpy(to.data() + i * sizeof(rounded), &rounded, sizeof(rounded));
    }
  }
}

void read_weight(const WeightSource& weights, const std::string& name, DType dtype, std::span<std::byte> to) {
  const DType from = weights.dtype(name);
  if (from == dtype) return weights.read(name, 0, to);
  if (!is_kept_from(from, dtype)) {
    throw Error(ErrorId::M023, fmt::format("weight \"{}\"", name),
                fmt::format("is {}, the plan keeps it as {}", dtype_name(from), dtype_name(dtype)),
                "make the plan again from this model");
  }
  constexpr size_t kPiece = size_t{1} << 20;  // of numbers
  const size_t count = to.size() / static_cast<size_t>(dtype_bytes(dtype));
  std::vector<std::byte> piece(std::min(count, kPiece) * sizeof(float));
  for (size_t begin = 0; begin < count; begin += kPiece) {
    const size_t numbers = std::min(kPiece, count - begin);
    const std::span<std::byte> wide = std::span(piece).first(numbers * sizeof(float));
    weights.read(name, static_cast<int64_t>(begin * sizeof(float)), wide);
    round_numbers(wide, dtype, to.subspan(begin * static_cast<size_t>(dtype_bytes(dtype))));
  }
}

}  // namespace mpc
