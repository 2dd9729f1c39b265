#include "tests/ops/sample.h"

// Samples of attention and its gradient. Operands of the gradient need not belong together: it is a formula of them.

namespace mpc::samples {
namespace {

/// Rounding to 8 bits of mantissa at the end, in every backend.
constexpr double kBf16Tolerance = 1e-2;

struct Sizes {
  int64_t batch, queries, keys, heads, width, value_width;
};

double tolerance_of(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f16 ? kBf16Tolerance : 1e-5;
}

/// Forward and backward of `operands` (q, k and v, or qkv), where y has the shape `y`. A mask of rank 0 is none.
void add_both(SampleList& list, const std::string& name, const std::vector<Shape>& operands, const Shape& y,
              bool is_causal, DType dtype, const Shape& mask) {
  const auto of = [&](const Shape& shape) { return Operand{.dtype = dtype, .shape = shape, .numbers = {}}; };
  const Attributes attributes = {{"scale", 0.4}, {"is_causal", int64_t{is_causal}}};
  Sample forward{.name = name, .op = OpKind::ScaledDotProductAttention, .inputs = {}, .attributes = attributes};
  for (const Shape& operand : operands) forward.inputs.push_back(of(operand));
  const DType sums = dtype == DType::f64 ? DType::f64 : DType::f32;
  const Operand added{.dtype = sums, .shape = mask, .low = -3, .high = 1, .numbers = {}};
  const std::vector<std::optional<Operand>> of_scores = forward.inputs;
  if (mask.rank() > 0) forward.inputs.push_back(added);
  forward.tolerance = tolerance_of(dtype);
  // The gradient reads log_sum, which no loss depends on: it stands beside y whenever there is a gradient.
  forward.outputs = {true, true};
  forward.check_gradient = false;
  list.push_back(forward);

  const Operand log_sum{.dtype = sums, .shape = {y[0], y[2], y[1]}, .low = 1, .high = 2, .numbers = {}};
  Sample grad{.name = name,
              .op = OpKind::ScaledDotProductAttentionGrad,
              .inputs = of_scores,
              .attributes = attributes,
              .outputs = std::vector<bool>(operands.size(), true)};
  grad.inputs.insert(grad.inputs.begin(), of(y));
  grad.inputs.insert(grad.inputs.end(), {of(y), log_sum});
  if (mask.rank() > 0) grad.inputs.push_back(added);
  grad.tolerance = tolerance_of(dtype);
  list.push_back(grad);
}

void add(SampleList& list, const std::string& name, const Sizes& s, bool is_causal, DType dtype = DType::f32,
         const Shape& mask = {}) {
  const Shape q{s.batch, s.queries, s.heads, s.width};
  const Shape k{s.batch, s.keys, s.heads, s.width};
  const Shape v{s.batch, s.keys, s.heads, s.value_width};
  add_both(list, name, {q, k, v}, Shape{s.batch, s.queries, s.heads, s.value_width}, is_causal, dtype, mask);
}

/// q, k and v in one operand.
void add_packed(SampleList& list, const std::string& name, const Sizes& s, bool is_causal, DType dtype = DType::f32,
                const Shape& mask = {}) {
  const Shape y{s.batch, s.queries, s.heads, s.width};
  add_both(list, name, {Shape{y[0], y[1], 3, y[2], y[3]}}, y, is_causal, dtype, mask);
}

/// The forward sample `at` without its log_sum: its gradient against finite differences of y.
void check_gradient_of(SampleList& list, size_t at) {
  Sample checked = list[at];
  checked.name += ", y alone";
  checked.outputs = {true};
  checked.check_gradient = true;
  list.push_back(checked);
}

}  // namespace

SampleList attention_samples() {
  SampleList list;
  add(list, "plain", {2, 3, 5, 2, 4, 6}, false);
  add(list, "causal", {1, 7, 7, 2, 8, 8}, true);
  add(list, "one query", {2, 1, 9, 1, 3, 3}, false);
  add(list, "more keys than a team has threads", {1, 2, 300, 1, 5, 4}, false);
  // On a GPU 1056 teams take 1080 rows of scores: queries, then keys.
  add(list, "more queries than teams", {1, 540, 2, 2, 1, 1}, false);
  add(list, "more keys than teams", {1, 2, 540, 2, 1, 1}, false);
  add(list, "no batch", {0, 3, 5, 2, 4, 4}, false);
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16})
    add(list, std::string(dtype_name(dtype)), {2, 4, 4, 2, 8, 8}, true, dtype);
  Sample one = list[1];
  one.name = "only dk";
  one.outputs = {false, true, false};
  list.push_back(one);
  check_gradient_of(list, 0);
  const size_t packed = list.size();
  add_packed(list, "packed", {2, 5, 5, 2, 4, 4}, false);
  add_packed(list, "packed, causal", {1, 7, 7, 3, 8, 8}, true);
  add_packed(list, "packed, bf16", {2, 4, 4, 2, 8, 8}, true, DType::bf16);
  check_gradient_of(list, packed);
  add(list, "mask of keys", {2, 3, 5, 2, 4, 6}, false, DType::f32, {2, 1, 1, 5});
  add(list, "mask of all", {2, 3, 5, 2, 4, 6}, false, DType::f32, {2, 2, 3, 5});
  add(list, "mask of heads, causal", {2, 4, 4, 3, 4, 4}, true, DType::f32, {1, 3, 4, 4});
  add(list, "mask, f64", {2, 4, 4, 3, 4, 4}, false, DType::f64, {2, 1, 4, 4});
  for (const DType dtype : {DType::f16, DType::bf16}) {
    add(list, std::string(dtype_name(dtype)) + ", mask", {2, 4, 4, 2, 8, 8}, false, dtype, {2, 1, 1, 4});
    add_packed(list, std::string(dtype_name(dtype)) + ", packed, mask", {2, 4, 4, 2, 8, 8}, false, dtype, {1, 1, 4, 4});
  }
  return list;
}

}  // namespace mpc::samples
