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

}  // namespace

void Cast(const KernelCall& call) {
  for (size_t i = 0; i < call.outputs.size(); ++i) {
    if (!call.has_output(i)) continue;
    cast_one({call.attributes, call.inputs.subspan(i, 1), call.outputs.subspan(i, 1), call.step, call.workspace});
  }
}

}  // namespace mpc::reference
