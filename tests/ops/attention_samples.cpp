#include "tests/ops/sample.h"

// Samples of attention and its gradient. Operands of the gradient need not belong together: it is a formula of them.

namespace mpc::samples {
namespace {

/// Rounding to 8 bits of mantissa at the end, in every backend.
constexpr double kBf16Tolerance = 1e-2;

struct Sizes {
  int64_t batch, queries, keys, heads, width, value_width;
};

void add(SampleList& list, const std::string& name, const Sizes& s, bool is_causal, DType dtype = DType::f32) {
  const auto of = [&](Shape shape) { return Operand{.dtype = dtype, .shape = shape, .numbers = {}}; };
  const Attributes attributes = {{"scale", 0.4}, {"is_causal", int64_t{is_causal}}};
  const Shape y{s.batch, s.queries, s.heads, s.value_width};
  const Operand q = of({s.batch, s.queries, s.heads, s.width});
  const Operand k = of({s.batch, s.keys, s.heads, s.width});
  const Operand v = of({s.batch, s.keys, s.heads, s.value_width});
  const double tolerance = dtype == DType::bf16 || dtype == DType::f16 ? kBf16Tolerance : 1e-5;
  Sample forward{.name = name, .op = OpKind::ScaledDotProductAttention, .inputs = {q, k, v}, .attributes = attributes};
  forward.tolerance = tolerance;
  // The gradient reads log_sum, which no loss depends on: it stands beside y whenever there is a gradient.
  forward.outputs = {true, true};
  forward.check_gradient = false;
  list.push_back(forward);

  const DType sums = dtype == DType::f64 ? DType::f64 : DType::f32;
  const Operand log_sum{.dtype = sums, .shape = {s.batch, s.heads, s.queries}, .low = 1, .high = 2, .numbers = {}};
  Sample grad{.name = name,
              .op = OpKind::ScaledDotProductAttentionGrad,
              .inputs = {of(y), q, k, v, of(y), log_sum},
              .attributes = attributes,
              .outputs = {true, true, true}};
  grad.tolerance = tolerance;
  list.push_back(grad);
}

}  // namespace

SampleList attention_samples() {
  SampleList list;
  add(list, "plain", {2, 3, 5, 2, 4, 6}, false);
  add(list, "causal", {1, 7, 7, 2, 8, 8}, true);
  add(list, "one query", {2, 1, 9, 1, 3, 3}, false);
  add(list, "more keys than a team has threads", {1, 2, 300, 1, 5, 4}, false);
  add(list, "no batch", {0, 3, 5, 2, 4, 4}, false);
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16})
    add(list, std::string(dtype_name(dtype)), {2, 4, 4, 2, 8, 8}, true, dtype);
  Sample one = list[1];
  one.name = "only dk";
  one.outputs = {false, true, false};
  list.push_back(one);
  // The gradient against finite differences of y alone.
  Sample checked = list[0];
  checked.name = "plain, y alone";
  checked.outputs = {true};
  checked.check_gradient = true;
  list.push_back(checked);
  return list;
}

}  // namespace mpc::samples
