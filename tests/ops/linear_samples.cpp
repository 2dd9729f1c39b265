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
  for (const DType dtype : {DType::i32, DType::i64}) {
    add(std::string(dtype_name(dtype)),
        {whole({3, 4}, dtype, -9, 9), whole({4, 2}, dtype, -9, 9), whole({2}, dtype, -9, 9)},
        {{"alpha", 3.0}, {"beta", -2.0}});
  }
}

}  // namespace

SampleList linear_samples() {
  SampleList list;
  add_matmul(list);
  add_gemm(list);
  return list;
}

}  // namespace mpc::samples
