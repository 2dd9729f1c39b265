#include "executor/host/finite.h"

namespace mpc::executor {
namespace {

// A float is NaN or infinite exactly when all bits of its exponent are set.
template <class Word>
std::optional<int64_t> find(const TensorView& tensor, Word exponent) {
  const Word* words = tensor.as<Word>();
  const int64_t elements = tensor.shape.elements();
  for (int64_t i = 0; i < elements; ++i) {
    if ((words[i] & exponent) == exponent) return i;
  }
  return std::nullopt;
}

}  // namespace

std::optional<int64_t> first_not_finite(const TensorView& tensor) {
  switch (tensor.dtype) {
    case DType::f32:
      return find<uint32_t>(tensor, 0x7F800000u);
    case DType::f64:
      return find<uint64_t>(tensor, 0x7FF0000000000000u);
    case DType::f16:
      return find<uint16_t>(tensor, uint16_t{0x7C00u});
    case DType::bf16:
      return find<uint16_t>(tensor, uint16_t{0x7F80u});
    default:
      return std::nullopt;
  }
}

}  // namespace mpc::executor
