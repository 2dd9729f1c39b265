#include "tests/ops/sample.h"

// Samples of MatMul and Gemm. Their gradients are products again, so central differences are exact but for rounding.

namespace mpc::samples {
namespace {

Operand of(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .numbers = {}};
}
Operand whole(Shape shape, DType dtype, double low, double high) {
  return {.dtype = dtype, .shape = shape, .low = low, .high = high, .numbers = {}};
}

void add_matmul(SampleList& list) {
  const auto add = [&](std::string name, Operand a, Operand b) {
    list.push_back(
        {.name = std::move(name), .op = OpKind::MatMul, .inputs = {std::move(a), std::move(b)}, .attributes = {}});
  };
  add("matrices", of({3, 4}), of({4, 5}));
  add("odd sizes", of({17, 33}), of({33, 7}));
  add("row by column", of({1, 9}), of({9, 1}));
  add("vector by vector", of({6}), of({6}));
  add("vector by matrix", of({4}), of({4, 3}));
  add("matrix by vector", of({3, 4}), of({4}));
  add("vector by stack", of({4}), of({2, 4, 3}));
  add("stack by vector", of({2, 3, 4}), of({4}));
  add("stack by one matrix", of({2, 3, 4}), of({4, 5}));
  add("one matrix by stack", of({3, 4}), of({2, 4, 5}));
  add("stacks", of({2, 3, 4, 5}), of({2, 3, 5, 2}));
  add("broadcast stacks", of({2, 1, 3, 4}), of({3, 4, 2}));
  add("both stacks broadcast", of({3, 1, 2, 4}), of({1, 2, 4, 2}));
  add("no rows", of({0, 4}), of({4, 5}));
  add("no rows in a stack", of({2, 0, 4}), of({4, 5}));
  add("no inner dimension", of({3, 0}), of({0, 2}));
  add("no matrices", of({0, 2, 3}), of({0, 3, 2}));
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)), of({3, 8}, dtype), of({8, 4}, dtype));
  }
  for (const DType dtype : {DType::i32, DType::i64}) {
    add(std::string(dtype_name(dtype)), whole({3, 4}, dtype, -9, 9), whole({4, 2}, dtype, -9, 9));
  }
  for (const DType dtype : {DType::u32, DType::u64}) {
    add(std::string(dtype_name(dtype)), whole({3, 4}, dtype, 0, 9), whole({4, 2}, dtype, 0, 9));
  }
  add("i32 wraps", whole({2, 2}, DType::i32, 100000, 200000), whole({2, 2}, DType::i32, 100000, 200000));
}

void add_gemm(SampleList& list) {
  const auto add = [&](std::string name, std::vector<std::optional<Operand>> inputs, Attributes attributes = {}) {
    list.push_back({.name = std::move(name),
                    .op = OpKind::Gemm,
                    .inputs = std::move(inputs),
                    .attributes = std::move(attributes)});
  };
  const int64_t yes = 1;
  add("plain", {of({3, 4}), of({4, 5})});
  add("linear layer", {of({5, 10}), of({3, 10}), of({3})}, {{"transB", yes}});
  add("A transposed", {of({4, 3}), of({4, 5}), of({3, 5})}, {{"transA", yes}});
  add("both transposed", {of({4, 3}), of({5, 4}), of({1, 5})}, {{"transA", yes}, {"transB", yes}});
  add("alpha and beta", {of({3, 4}), of({4, 5}), of({3, 1})}, {{"alpha", 0.5}, {"beta", -2.0}});
  add("alpha and beta, A transposed", {of({4, 3}), of({4, 5}), of({})},
      {{"alpha", 0.25}, {"beta", 0.75}, {"transA", yes}});
  add("beta zero", {of({2, 3}), of({3, 2}), of({2})}, {{"beta", 0.0}});
  add("C of one element", {of({2, 3}), of({3, 2}), of({1})});
  add("odd sizes", {of({19, 33}), of({33, 7}), of({7})});
  add("no rows", {of({0, 4}), of({4, 5}), of({5})});
  add("no inner dimension", {of({3, 0}), of({0, 2}), of({2})});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)), {of({3, 8}, dtype), of({4, 8}, dtype), of({4}, dtype)}, {{"transB", yes}});
  }
  for (const DType dtype : {DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)) + " to f32", {of({8, 3}, dtype), of({8, 4}, dtype)},
        {{"transA", yes}, {"to", std::string("f32")}});
  }
  for (const DType dtype : {DType::i32, DType::i64}) {
    add(std::string(dtype_name(dtype)),
        {whole({3, 4}, dtype, -9, 9), whole({4, 2}, dtype, -9, 9), whole({2}, dtype, -9, 9)},
        {{"alpha", 3.0}, {"beta", -2.0}});
  }
}

/// Products fused with what follows them: made after differentiation, so there are no gradients.
void add_fused(SampleList& list) {
  const auto add = [&](std::string name, OpKind op, std::vector<std::optional<Operand>> inputs, Attributes attributes,
                       double tolerance = 1e-5) {
    list.push_back({.name = "fused " + std::move(name),
                    .op = op,
                    .inputs = std::move(inputs),
                    .attributes = std::move(attributes),
                    .tolerance = tolerance,
                    .check_gradient = false});
  };
  const int64_t yes = 1;
  const Attributes relu = {{"activation", std::string("Relu")}};
  const Attributes gelu = {{"activation", std::string("Gelu")}};
  add("row", OpKind::MatMul, {of({2, 3, 4}), of({4, 5}), of({5})}, {});
  add("whole", OpKind::MatMul, {of({2, 3, 4}), of({4, 5}), std::nullopt, of({2, 3, 5})}, {});
  add("row and whole", OpKind::MatMul, {of({2, 17, 33}), of({33, 7}), of({7}), of({2, 17, 7})}, {});
  add("row, whole, Relu", OpKind::MatMul, {of({3, 4}), of({4, 5}), of({5}), of({3, 5})}, relu);
  add("row, Gelu", OpKind::MatMul, {of({2, 3, 4}), of({4, 5}), of({5})}, gelu);
  add("Relu", OpKind::MatMul, {of({3, 4}), of({4, 5})}, relu);
  add("row of stacks", OpKind::MatMul, {of({2, 1, 3, 4}), of({3, 4, 2}), of({2}), of({2, 3, 3, 2})}, gelu);
  add("no rows", OpKind::MatMul, {of({0, 4}), of({4, 5}), of({5})}, relu);
  add("A transposed", OpKind::MatMul, {of({2, 4, 3}), of({2, 4, 5})}, {{"transA", yes}});
  add("B transposed", OpKind::MatMul, {of({2, 3, 4}), of({2, 5, 4})}, {{"transB", yes}});
  add("both transposed, row", OpKind::MatMul, {of({2, 2, 4, 3}), of({2, 2, 5, 4}), of({5})},
      {{"transA", yes}, {"transB", yes}});
  add("A transposed by one matrix", OpKind::MatMul, {of({2, 4, 3}), of({4, 5})}, {{"transA", yes}});
  add("B of one matrix transposed", OpKind::MatMul, {of({2, 3, 4}), of({5, 4})}, {{"transB", yes}});
  add("broadcast stacks transposed", OpKind::MatMul, {of({2, 1, 4, 3}), of({3, 2, 4})},
      {{"transA", yes}, {"transB", yes}});
  add("C and whole", OpKind::Gemm, {of({3, 8}), of({4, 8}), of({4}), of({3, 4})}, {{"transB", yes}});
  add("whole", OpKind::Gemm, {of({8, 3}), of({8, 4}), std::nullopt, of({3, 4})}, {{"transA", yes}});
  add("C matrix and whole", OpKind::Gemm, {of({3, 8}), of({8, 4}), of({3, 4}), of({3, 4})}, {{"beta", 0.5}});
  add("C, Relu", OpKind::Gemm, {of({3, 8}), of({4, 8}), of({4})},
      {{"activation", std::string("Relu")}, {"transB", yes}});
  add("C, Gelu", OpKind::Gemm, {of({3, 8}), of({4, 8}), of({4})},
      {{"activation", std::string("Gelu")}, {"transB", yes}});
  const Attributes gradient = {{"activation", std::string("GeluGrad")}};
  Attributes gradient_transposed = gradient;
  gradient_transposed.set("transB", yes);
  add("gradient of Gelu", OpKind::Gemm, {of({3, 8}), of({16, 8}), std::nullopt, of({3, 16})}, gradient_transposed);
  add("gradient of Gelu, odd columns", OpKind::Gemm, {of({3, 8}), of({8, 5}), std::nullopt, of({3, 5})}, gradient);
  add("gradient of Gelu of stacks", OpKind::MatMul, {of({2, 3, 4}), of({2, 4, 8}), std::nullopt, of({2, 3, 8})},
      gradient);
  const auto add_sums = [&](std::string name, Operand a, Operand b, Attributes attributes) {
    list.push_back({.name = "sums " + std::move(name),
                    .op = OpKind::Gemm,
                    .inputs = {std::move(a), std::move(b)},
                    .attributes = std::move(attributes),
                    .outputs = {true, true},
                    .check_gradient = false});
  };
  add_sums("of B", of({8, 3}), of({8, 4}), {{"transA", yes}});
  add_sums("of B transposed", of({3, 33}), of({7, 33}), {{"transB", yes}});
  add_sums("of no rows", of({0, 3}), of({0, 4}), {{"transA", yes}});
  const Attributes in_f32 = {{"sum_to", std::string("f32")}};
  Attributes in_f32_transposed = in_f32;
  in_f32_transposed.set("transB", yes);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    // The product and its sum with the row are rounded, and may go to the other side of a border.
    const double tolerance = dtype == DType::bf16 ? 0x1p-8 : 0x1p-11;
    const std::string name(dtype_name(dtype));
    add(name + " with whole in f32", OpKind::MatMul,
        {of({2, 3, 8}, dtype), of({8, 4}, dtype), std::nullopt, of({2, 3, 4})}, in_f32, tolerance);
    add(name + " with row and whole in f32", OpKind::MatMul,
        {of({2, 3, 8}, dtype), of({8, 4}, dtype), of({4}), of({2, 3, 4})}, in_f32, tolerance);
    add(name + " with whole in f32", OpKind::Gemm, {of({3, 8}, dtype), of({4, 8}, dtype), std::nullopt, of({3, 4})},
        in_f32_transposed, tolerance);
  }
  // Each operator alone rounds, three times here; a library's epilogue rounds once. A rounding is 2^-9 of a bf16 and
  // 2^-12 of an f16 at most, and those after it keep its size: three of one side and one of the other.
  add("bf16", OpKind::MatMul,
      {of({3, 8}, DType::bf16), of({8, 4}, DType::bf16), of({4}, DType::bf16), of({3, 4}, DType::bf16)}, gelu,
      4 * 0x1p-9);
  add("f16", OpKind::MatMul,
      {of({3, 8}, DType::f16), of({8, 4}, DType::f16), of({4}, DType::f16), of({3, 4}, DType::f16)}, gelu, 4 * 0x1p-12);
}

}  // namespace

SampleList linear_samples() {
  SampleList list;
  add_matmul(list);
  add_gemm(list);
  add_fused(list);
  return list;
}

}  // namespace mpc::samples
