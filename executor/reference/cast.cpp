#include <algorithm>

#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

constexpr int64_t kChunk = 512;  // elements converted at a time

// Reads as C and writes from R; convert(C) -> R.
template <class C, class R, class F>
void convert_all(const KernelCall& call, F&& convert) {
  std::array<C, kChunk> in;
  std::array<R, kChunk> out;
  const int64_t elements = call.outputs[0].shape.elements();
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    const size_t count = static_cast<size_t>(std::min(kChunk, elements - begin));
    load<C>(call.inputs[0], begin, std::span(in.data(), count));
    for (size_t i = 0; i < count; ++i) out[i] = convert(in[i]);
    store<R>(call.outputs[0], begin, std::span<const R>(out.data(), count));
  }
}

}  // namespace

// Integers become f32, f16 and bf16 by one rounding to f32 (not through f64, which would round twice).
void Cast(const KernelCall& call) {
  const DType from = call.inputs[0].dtype;
  const DType to = call.outputs[0].dtype;
  if (is_float(from)) return convert_all<double, double>(call, [](double x) { return x; });
  with_compute_type(from, [&](auto tag) {
    using C = decltype(tag);
    if (!is_float(to)) return convert_all<C, C>(call, [](C x) { return x; });
    if (to == DType::f64) return convert_all<C, double>(call, [](C x) { return static_cast<double>(x); });
    convert_all<C, double>(call, [](C x) { return static_cast<double>(static_cast<float>(x)); });
  });
}

}  // namespace mpc::reference
