#include <span>
#include <vector>

#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

// Integers become f32, f16 and bf16 by one rounding to f32 (not through f64, which would round twice).
void cast_one(const KernelCall& call) {
  const DType from = call.inputs[0].dtype;
  const DType to = call.outputs[0].dtype;
  if (is_float(from)) return map_elements<double, double>(call, [](double x) { return x; });
  with_compute_type(from, [&](auto tag) {
    using C = decltype(tag);
    if (!is_float(to)) return map_elements<C, C>(call, [](C x) { return x; });
    if (to == DType::f64) return map_elements<C, double>(call, [](C x) { return static_cast<double>(x); });
    map_elements<C, double>(call, [](C x) { return static_cast<double>(static_cast<float>(x)); });
  });
}

/// The parts of one result, side by side in their last dimension: each is cast alone, and copied to its columns.
void cast_joined(const KernelCall& call, std::span<const TensorView> parts, const TensorView& whole) {
  const int axis = whole.shape.rank() - 1;
  const int64_t rows = whole.shape.elements(0, axis);
  int64_t begin = 0;
  for (const TensorView& part : parts) {
    const int64_t columns = part.shape[axis];
    std::vector<std::byte> bytes(static_cast<size_t>(part.shape.elements() * dtype_bytes(whole.dtype)));
    const TensorView cast{whole.dtype, part.shape, bytes.data()};
    cast_one({call.attributes, {&part, 1}, {&cast, 1}, call.step, call.workspace});
    for (int64_t i = 0; i < rows * columns; ++i)
      copy_element(whole, i / columns * whole.shape[axis] + begin + i % columns, cast, i);
    begin += columns;
  }
}

}  // namespace

void Cast(const KernelCall& call) {
  const bool is_joined = call.attributes.has("joined");
  size_t first = 0;
  for (size_t i = 0; i < call.outputs.size(); ++i) {
    const size_t count = is_joined ? static_cast<size_t>(call.attributes.integers("joined")[i]) : 1;
    const auto parts = call.inputs.subspan(first, count);
    first += count;
    if (!call.has_output(i)) continue;
    if (is_joined) {
      cast_joined(call, parts, call.outputs[i]);
    } else {
      cast_one({call.attributes, parts, call.outputs.subspan(i, 1), call.step, call.workspace});
    }
  }
}

}  // namespace mpc::reference
