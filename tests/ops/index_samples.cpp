#include "tests/ops/sample.h"

// Samples of the operators that read or write where an index tensor says. Ops that only move bytes have tolerance 0;
// those that reduce add or multiply a few elements (1e-6 is several f32 roundings).

namespace mpc::samples {
namespace {

constexpr double kMoves = 0;
constexpr double kReduces = 1e-6;

Operand of(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .numbers = {}};
}
Operand whole(Shape shape, DType dtype) {
  return {.dtype = dtype, .shape = shape, .low = 0, .high = 100, .numbers = {}};
}
Operand numbers(Shape shape, std::vector<double> numbers, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .numbers = std::move(numbers)};
}
Operand indices(Shape shape, std::vector<double> values, DType dtype = DType::i64) {
  return numbers(shape, std::move(values), dtype);
}
/// Random indices in [0, dim): repeats are likely.
Operand indices_below(Shape shape, int64_t dim) {
  return {.dtype = DType::i64, .shape = shape, .low = 0, .high = static_cast<double>(dim), .numbers = {}};
}

Sample make(std::string name, OpKind op, std::vector<std::optional<Operand>> inputs, Attributes attributes,
            double tolerance) {
  return {.name = std::move(name),
          .op = op,
          .inputs = std::move(inputs),
          .attributes = std::move(attributes),
          .tolerance = tolerance};
}

void add_gather(SampleList& list) {
  const auto add = [&](std::string name, Operand data, Operand at, int64_t axis) {
    list.push_back(make(std::move(name), OpKind::Gather, {data, at}, {{"axis", axis}}, kMoves));
  };
  add("embedding", of({7, 4}), indices_below({2, 5}, 7), 0);
  add("last axis", of({3, 5}), indices({2}, {4, 1}), -1);
  add("middle axis", of({2, 4, 3}), indices({3}, {0, 3, 0}), 1);
  add("negative indices", of({5, 2}), indices({3}, {-1, -5, 2}), 0);
  add("i32 indices", of({5, 2}), indices({2}, {1, 4}, DType::i32), 0);
  add("scalar index", of({3, 4}), indices({}, {2}), 1);
  add("no indices", of({3, 4}), of({0}, DType::i64), 0);
  add("f64", of({3, 4}, DType::f64), indices({2}, {2, 0}), 0);
  add("f16", of({3, 4}, DType::f16), indices({2}, {2, 0}), 0);
  add("i64", whole({6}, DType::i64), indices({2}, {5, 0}), 0);
}

void add_gather_grad(SampleList& list) {
  const auto add = [&](std::string name, Operand dy, Operand at, int64_t axis, std::vector<int64_t> shape) {
    list.push_back(
        make(std::move(name), OpKind::GatherGrad, {dy, at}, {{"axis", axis}, {"shape", std::move(shape)}}, kReduces));
  };
  add("embedding", of({2, 5, 4}), indices_below({2, 5}, 7), 0, {7, 4});
  add("one row many times", of({64, 3}), indices_below({64}, 2), 0, {2, 3});
  add("so many indices that they are sorted", of({5000, 2}), indices_below({5000}, 77), 0, {77, 2});
  add("middle axis, negative indices", of({2, 3, 3}), indices({3}, {-4, 3, 0}), 1, {2, 4, 3});
  add("scalar index", of({3}), indices({}, {2}, DType::i32), -1, {3, 4});
  add("no indices", of({0, 4}), of({0}, DType::i64), 0, {3, 4});
  add("f64", of({3, 4}, DType::f64), indices({3}, {2, 0, 2}), 0, {3, 4});
}

void add_gather_elements(SampleList& list) {
  const auto add = [&](std::string name, Operand data, Operand at, int64_t axis) {
    list.push_back(make(std::move(name), OpKind::GatherElements, {data, at}, {{"axis", axis}}, kMoves));
  };
  add("rows", of({3, 3}), indices({2, 3}, {1, 2, 0, 2, 0, 0}), 0);
  add("columns, negative and repeated indices", of({2, 4}), indices({2, 3}, {-1, 0, 0, 2, 2, -4}), 1);
  add("more indices than elements", of({2, 2}), indices_below({2, 5}, 2), -1);
  add("fewer rows than the data", of({3, 2, 2}), indices({1, 2, 2}, {0, 1, 1, 0}), 2);
  add("i32 indices", of({4}), indices({2}, {3, 1}, DType::i32), 0);
  add("no indices", of({3, 2}), of({0, 2}, DType::i64), 0);
  add("f64", of({3}, DType::f64), indices({2}, {2, 0}), 0);
  add("i64", whole({3}, DType::i64), indices({2}, {2, 0}), 0);
}

void add_gather_nd(SampleList& list) {
  const auto add = [&](std::string name, Operand data, Operand at, int64_t batch_dims) {
    list.push_back(make(std::move(name), OpKind::GatherND, {data, at}, {{"batch_dims", batch_dims}}, kMoves));
  };
  add("elements", of({3, 4}), indices({3, 2}, {0, 1, 2, 3, -1, -1}), 0);
  add("rows, repeated", of({3, 4}), indices({2, 2, 1}, {1, 0, 1, 2}), 0);
  add("one batch axis", of({2, 3, 4}), indices({2, 2, 1}, {2, 0, 1, 1}), 1);
  add("two batch axes", of({2, 2, 3}), indices({2, 2, 1}, {2, 0, 1, 1}), 2);
  add("no tuples", of({2, 3}), of({0, 2}, DType::i64), 0);
  add("f64", of({2, 2}, DType::f64), indices({1, 2}, {1, 0}), 0);
  add("i64", whole({2, 2}, DType::i64), indices({1, 1}, {1}), 0);
}

// The numbers of the reductions keep away from ties by 0.1 and more, so that max and min have a derivative; mul has
// zeros, one of them alone in its product.
void add_scatter_elements(SampleList& list) {
  const auto add = [&](std::string name, Operand data, Operand at, Operand updates, int64_t axis, std::string reduction,
                       double tolerance) {
    list.push_back(make(std::move(name), OpKind::ScatterElements, {data, at, updates},
                        {{"axis", axis}, {"reduction", reduction}}, tolerance));
  };
  const Operand repeated = indices({2, 3}, {0, 1, -4, 3, 3, 3});
  const Operand data = numbers({2, 4}, {0.5, -0.25, 1.5, 0.75, 2, 0, -1.25, 0.3});
  const Operand updates = numbers({2, 3}, {0.1, 0.9, -0.6, 1.1, -1.7, 0.7});
  add("rows", of({3, 3}), indices({2, 3}, {1, 0, 2, 0, 2, 1}), of({2, 3}), 0, "none", kMoves);
  add("columns, negative indices", of({2, 5}), indices({2, 2}, {1, -2, 0, -1}), of({2, 2}), 1, "none", kMoves);
  add("i32 indices", of({4}), indices({2}, {3, 1}, DType::i32), of({2}), 0, "none", kMoves);
  add("no updates", of({3, 2}), of({0, 2}, DType::i64), of({0, 2}), 0, "none", kMoves);
  add("added", data, repeated, updates, 1, "add", kReduces);
  add("many added to one", of({2}), indices_below({64}, 2), of({64}), 0, "add", kReduces);
  add("multiplied", data, repeated, updates, 1, "mul", kReduces);
  add("multiplied, with zeros", data, repeated, numbers({2, 3}, {0, 0.9, -0.6, 0, -1.7, 0}), 1, "mul", kReduces);
  add("largest", data, repeated, updates, 1, "max", kMoves);
  add("smallest", data, repeated, updates, 1, "min", kMoves);
  add("so many indices that they are sorted", of({9, 3}), indices_below({5000, 2}, 9), of({5000, 2}), 0, "add",
      kReduces);
  list.back().check_gradient = false;  // thousands of finite differences; smaller samples have them
  add("the last of many stays", of({9}), indices_below({5000}, 9), of({5000}), 0, "none", kMoves);
  list.back().check_gradient = false;  // ONNX leaves open which of several updates stays, so there is no gradient
  add("f64 added", of({4}, DType::f64), indices({3}, {1, 1, 2}), of({3}, DType::f64), 0, "add", kReduces);
  add("f16", of({4}, DType::f16), indices({2}, {1, 3}), of({2}, DType::f16), 0, "none", kMoves);
  add("i64 wraps", numbers({2}, {3037000500.0 * 2, -5}, DType::i64), indices({3}, {0, 1, 1}),
      numbers({3}, {3037000500.0 * 2, 7, -3}, DType::i64), 0, "mul", kMoves);
  add("u64 largest", numbers({2}, {0x1p63, 5}, DType::u64), indices({2}, {0, 1}), numbers({2}, {7, 0x1p63}, DType::u64),
      0, "max", kMoves);
}

void add_scatter_nd(SampleList& list) {
  const auto add = [&](std::string name, Operand data, Operand at, Operand updates, std::string reduction,
                       double tolerance) {
    list.push_back(
        make(std::move(name), OpKind::ScatterND, {data, at, updates}, {{"reduction", reduction}}, tolerance));
  };
  const Operand repeated = indices({3, 1}, {1, -1, 1});
  const Operand data = numbers({3, 2}, {0.5, -0.25, 1.5, 0.75, 2, 0});
  const Operand updates = numbers({3, 2}, {0.1, 0.9, -0.6, 1.1, -1.7, 0.4});
  add("elements", of({3, 4}), indices({2, 2}, {0, 1, -1, 3}), of({2}), "none", kMoves);
  add("rows", of({4, 3}), indices({2, 1}, {3, 0}), of({2, 3}), "none", kMoves);
  add("a grid of tuples", of({3, 3, 2}), indices({2, 2, 2}, {0, 0, 0, 2, 1, 1, 2, 0}), of({2, 2, 2}), "none", kMoves);
  add("no updates", of({3, 2}), of({0, 1}, DType::i64), of({0, 2}), "none", kMoves);
  add("added", data, repeated, updates, "add", kReduces);
  add("multiplied", data, repeated, updates, "mul", kReduces);
  add("multiplied, with zeros", data, repeated, numbers({3, 2}, {0, 0, -0.6, 1.1, -1.7, 0}), "mul", kReduces);
  add("largest", data, repeated, updates, "max", kMoves);
  add("smallest", data, repeated, updates, "min", kMoves);
  add("so many tuples that they are sorted", of({9, 3}), indices_below({5000, 1}, 9), of({5000, 3}), "add", kReduces);
  list.back().check_gradient = false;  // as above
  add("f64 added", of({4}, DType::f64), indices({2, 1}, {1, 1}), of({2}, DType::f64), "add", kReduces);
  add("i64", whole({4}, DType::i64), indices({2, 1}, {1, 1}), whole({2}, DType::i64), "add", kMoves);
}

void add_one_hot(SampleList& list) {
  const auto add = [&](std::string name, Operand at, Operand values, Attributes attributes) {
    list.push_back(make(std::move(name), OpKind::OneHot, {at, values}, std::move(attributes), kMoves));
  };
  const Operand off_on = numbers({2}, {0.25, 2});
  add("last axis", indices({2, 3}, {0, 4, 2, 1, 1, 3}), off_on, {{"depth", int64_t{5}}});
  add("first axis", indices({3}, {2, 0, 1}), off_on, {{"depth", int64_t{3}}, {"axis", int64_t{0}}});
  add("middle axis", indices({2, 2}, {0, 1, 2, 0}), off_on, {{"depth", int64_t{3}}, {"axis", int64_t{-2}}});
  add("negative and out of range", indices({4}, {-1, -4, 3, -3}), off_on, {{"depth", int64_t{3}}});
  add("float indices", numbers({2}, {1.5, -1}), off_on, {{"depth", int64_t{3}}});
  list.back().check_gradient =
      false;  // the indices are whole numbers in spirit: a step of finite differences may cross one
  add("scalar index", indices({}, {1}), off_on, {{"depth", int64_t{3}}});
  add("depth 0", indices({2}, {0, 1}), off_on, {{"depth", int64_t{0}}});
  add("i64 values, u8 indices", indices({3}, {2, 0, 255}, DType::u8), numbers({2}, {-1, 9}, DType::i64),
      {{"depth", int64_t{3}}});
  add("f64", indices({2}, {0, 1}), numbers({2}, {0, 1}, DType::f64), {{"depth", int64_t{2}}});
}

}  // namespace

SampleList index_samples() {
  SampleList list;
  add_gather(list);
  add_gather_grad(list);
  add_gather_elements(list);
  add_gather_nd(list);
  add_scatter_elements(list);
  add_scatter_nd(list);
  add_one_hot(list);
  return list;
}

}  // namespace mpc::samples
