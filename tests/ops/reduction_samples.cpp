#include <limits>

#include "tests/ops/sample.h"

// Samples of the reductions. Where ties would make a kink (Max, Min, L1), operands are drawn from continuous ranges,
// so that there are none.

namespace mpc::samples {
namespace {

using Axes = std::vector<int64_t>;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Operand range(Shape shape, double low, double high, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .low = low, .high = high, .numbers = {}};
}
Operand of_numbers(Shape shape, std::vector<double> numbers, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .numbers = std::move(numbers)};
}

class Builder {
 public:
  void add(OpKind op, std::string name, Operand x, Attributes attributes = {}, std::vector<bool> outputs = {true}) {
    list_.push_back({.name = std::move(name),
                     .op = op,
                     .inputs = {std::move(x)},
                     .attributes = std::move(attributes),
                     .outputs = std::move(outputs)});
  }
  SampleList take() { return std::move(list_); }

 private:
  SampleList list_;
};

void add_reduction(Builder& list, OpKind op, double low, double high) {
  list.add(op, "all axes", range({2, 3, 4}, low, high));
  list.add(op, "last axis", range({3, 37}, low, high), {{"axes", Axes{-1}}});
  list.add(op, "first axis without keepdims", range({5, 3}, low, high), {{"axes", Axes{0}}, {"keepdims", int64_t{0}}});
  list.add(op, "two axes in any order", range({2, 3, 4, 5}, low, high), {{"axes", Axes{3, -3}}});
  list.add(op, "to a scalar", range({7}, low, high), {{"keepdims", int64_t{0}}});
  list.add(op, "of a scalar", range({}, low, high));
  list.add(op, "over no axis", range({2, 3}, low, high), {{"noop_with_empty_axes", int64_t{1}}});
  list.add(op, "dimension of one", range({3, 1, 2}, low, high), {{"axes", Axes{1}}, {"keepdims", int64_t{0}}});
  list.add(op, "no results", range({0, 3}, low, high), {{"axes", Axes{1}}});
  list.add(op, "empty groups", range({2, 0, 3}, low, high), {{"axes", Axes{1}}});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    list.add(op, std::string(dtype_name(dtype)), range({3, 9}, low, high, dtype), {{"axes", Axes{1}}});
  }
  for (const DType dtype : {DType::i32, DType::i64, DType::u32, DType::u64}) {
    list.add(op, std::string(dtype_name(dtype)), range({3, 4}, 1, 9, dtype), {{"axes", Axes{1}}});
  }
}

void add_reductions(Builder& list) {
  for (const OpKind op : {OpKind::ReduceL1, OpKind::ReduceL2, OpKind::ReduceLogSum, OpKind::ReduceProd}) {
    add_reduction(list, op, 0.5, 1.5);
  }
  for (const OpKind op : {OpKind::ReduceLogSumExp, OpKind::ReduceMax, OpKind::ReduceMean, OpKind::ReduceMin,
                          OpKind::ReduceSum, OpKind::ReduceSumSquare}) {
    add_reduction(list, op, -1, 1);
  }
  for (const DType dtype : {DType::f16, DType::bf16}) {
    list.add(OpKind::ReduceSum, std::string(dtype_name(dtype)) + " to f32", range({3, 9}, -1, 1, dtype),
             {{"axes", Axes{0}}, {"to", std::string("f32")}});
  }
  list.add(OpKind::ReduceL1, "both signs", of_numbers({2, 3}, {1, -2, 3, -4, 5, -6}), {{"axes", Axes{1}}});
  list.add(OpKind::ReduceL1, "i32 both signs", range({3, 4}, -9, 9, DType::i32));
  list.add(OpKind::ReduceMean, "i32 is truncated", of_numbers({2, 2}, {-1, -2, 1, 2}, DType::i32), {{"axes", Axes{1}}});
  list.add(OpKind::ReduceProd, "one zero in a group", of_numbers({3, 3}, {2, 0, 3, 4, 5, 6, 0, 7, 0.5}),
           {{"axes", Axes{1}}});
  list.add(OpKind::ReduceProd, "two zeros in a group", of_numbers({2, 3}, {0, 0, 3, 4, 0.5, -6}), {{"axes", Axes{1}}});
  list.add(OpKind::ReduceLogSumExp, "large numbers", range({2, 5}, 1000, 1003), {{"axes", Axes{1}}});
  list.add(OpKind::ReduceLogSumExp, "infinities",
           of_numbers({3, 2}, {kInfinity, 1, -kInfinity, -kInfinity, kNaN, 1}, DType::f64), {{"axes", Axes{1}}});
  for (const OpKind op : {OpKind::ReduceMax, OpKind::ReduceMin}) {
    list.add(op, "NaN", of_numbers({3, 3}, {1, kNaN, 2, kNaN, 1, 2, 1, 2, kNaN}, DType::f64), {{"axes", Axes{1}}});
    for (const DType dtype : {DType::i8, DType::i16, DType::u8, DType::u16}) {
      list.add(op, std::string(dtype_name(dtype)), range({3, 4}, 1, 9, dtype), {{"axes", Axes{1}}});
    }
    for (const DType dtype : {DType::f16, DType::i8, DType::i32, DType::i64, DType::u64, DType::boolean}) {
      list.add(op, "empty groups " + std::string(dtype_name(dtype)), range({2, 0}, 0, 1, dtype), {{"axes", Axes{1}}});
    }
    list.add(op, "bool", range({5, 2}, 0, 2, DType::boolean), {{"axes", Axes{1}}});
  }
}

void add_arg_reductions(Builder& list) {
  for (const OpKind op : {OpKind::ArgMax, OpKind::ArgMin}) {
    list.add(op, "first axis by default", range({5, 3}, -1, 1));
    list.add(op, "last axis without keepdims", range({2, 3, 17}, -1, 1),
             {{"axis", int64_t{-1}}, {"keepdims", int64_t{0}}});
    list.add(op, "middle axis", range({2, 5, 3}, -1, 1), {{"axis", int64_t{1}}});
    list.add(op, "ties", of_numbers({2, 4}, {1, 3, 3, 1, 2, 2, 2, 2}), {{"axis", int64_t{1}}});
    list.add(op, "ties, last index", of_numbers({2, 4}, {1, 3, 3, 1, 2, 2, 2, 2}),
             {{"axis", int64_t{1}}, {"select_last_index", int64_t{1}}});
    list.add(op, "NaN", of_numbers({2, 3}, {1, kNaN, 2, kNaN, kNaN, 1}), {{"axis", int64_t{1}}});
    list.add(op, "no results", range({4, 0}, -1, 1));
    for (const DType dtype :
         {DType::f64, DType::f16, DType::bf16, DType::i8, DType::i32, DType::i64, DType::u8, DType::u64}) {
      list.add(op, std::string(dtype_name(dtype)), range({3, 7}, 0, 5, dtype), {{"axis", int64_t{1}}});
    }
  }
}

void add_top_k(Builder& list) {
  const auto add = [&](std::string name, Operand x, int64_t k, int64_t axis = -1, bool is_largest = true) {
    list.add(OpKind::TopK, std::move(name), std::move(x), {{"axis", axis}, {"k", k}, {"largest", int64_t{is_largest}}},
             {true, true});
  };
  add("vector", range({9}, -1, 1), 3);
  add("last axis of many", range({2, 3, 517}, -1, 1), 5);
  add("least along the middle axis", range({2, 7, 5}, -1, 1), 4, 1, false);
  add("all of them", range({6, 3}, -1, 1), 6, 0);
  add("none of them", range({4, 3}, -1, 1), 0);
  add("no lines", range({0, 3}, -1, 1), 2);
  add("ties", of_numbers({2, 6}, {1, 3, 3, 1, 2, 3, 2, 2, 2, 2, 2, 2}, DType::i64), 4);
  add("ties of the least", of_numbers({6}, {1, 3, 3, 1, 2, 3}, DType::i64), 5, 0, false);
  add("NaN and infinity", of_numbers({5}, {1, kNaN, kInfinity, kNaN, -kInfinity}, DType::f64), 4);
  for (const DType dtype :
       {DType::f64, DType::f16, DType::bf16, DType::i8, DType::i32, DType::i64, DType::u8, DType::u64})
    add(std::string(dtype_name(dtype)), range({3, 7}, 0, 5, dtype), 3);
}

void add_cumsum(Builder& list) {
  const auto add = [&](std::string name, Operand x, int64_t axis, bool exclusive = false, bool reverse = false) {
    list.add(OpKind::CumSum, std::move(name), std::move(x),
             {{"axis", axis}, {"exclusive", int64_t{exclusive}}, {"reverse", int64_t{reverse}}});
  };
  add("rank 1", range({7}, -1, 1), 0);
  add("last axis", range({2, 3, 5}, -1, 1), -1);
  add("middle axis", range({2, 3, 5}, -1, 1), 1);
  add("exclusive", range({3, 5}, -1, 1), 1, true);
  add("reverse", range({3, 5}, -1, 1), 1, false, true);
  add("exclusive and reverse", range({3, 5}, -1, 1), 0, true, true);
  add("no elements", range({3, 0}, -1, 1), 1);
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16})
    add(std::string(dtype_name(dtype)), range({3, 5}, -1, 1, dtype), 1);
  for (const DType dtype : {DType::i32, DType::i64, DType::u32, DType::u64}) {
    add(std::string(dtype_name(dtype)), range({3, 5}, 0, 9, dtype), 1);
  }
}

}  // namespace

SampleList reduction_samples() {
  Builder list;
  add_reductions(list);
  add_arg_reductions(list);
  add_top_k(list);
  add_cumsum(list);
  return list.take();
}

}  // namespace mpc::samples
