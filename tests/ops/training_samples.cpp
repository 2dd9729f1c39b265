#include "tests/ops/sample.h"

// Samples of Dropout, GradAccumulate, the optimizers and Transfer.

namespace mpc::samples {
namespace {

Operand of(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .numbers = {}};
}
Operand positive(Shape shape, DType dtype = DType::f32) {
  return {.dtype = dtype, .shape = shape, .low = 0.01, .high = 1, .numbers = {}};
}
Operand step(int64_t value) {
  return {.dtype = DType::i64, .shape = {}, .numbers = {static_cast<double>(value)}};
}
Operand scale(double value) {
  return {.dtype = DType::f32, .shape = {}, .numbers = {value}};
}

void add_dropout(SampleList& list) {
  const auto add = [&](std::string name, Operand x, double ratio, int64_t rng) {
    list.push_back({.name = std::move(name),
                    .op = OpKind::Dropout,
                    .inputs = {x},
                    .attributes = {{"ratio", ratio}, {"rng", rng}}});
  };
  add("plain", of({3, 11}), 0.5, 0);
  add("small ratio", of({4, 7}), 0.1, 3);
  add("keeps everything", of({2, 3}), 0.0, 1);
  add("drops nearly everything", of({2, 33}), 0.999, 1);
  add("no elements", of({0, 3}), 0.5, 1);
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16})
    add(std::string(dtype_name(dtype)), of({5, 5}, dtype), 0.3, 2);
}

void add_accumulate(SampleList& list) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    list.push_back({.name = std::string(dtype_name(dtype)),
                    .op = OpKind::GradAccumulate,
                    .inputs = {of({3, 7}, dtype), of({3, 7}, dtype)},
                    .attributes = {}});
  }
  list.push_back({.name = "more than a chunk",
                  .op = OpKind::GradAccumulate,
                  .inputs = {of({1025}), of({1025})},
                  .attributes = {}});
  list.push_back({.name = "no elements", .op = OpKind::GradAccumulate, .inputs = {of({0}), of({0})}, .attributes = {}});
  const auto add_product = [&](std::string name, Operand a, Operand sum, Operand b, Attributes attributes,
                               bool has_sums) {
    list.push_back({.name = "product " + std::move(name),
                    .op = OpKind::GradAccumulate,
                    .inputs = {std::move(a), std::move(sum), std::move(b)},
                    .attributes = std::move(attributes),
                    .outputs = has_sums ? std::vector<bool>{true, true} : std::vector<bool>{true},
                    .check_gradient = false});
  };
  const Attributes of_rows = {{"transA", int64_t{1}}};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    add_product(std::string(dtype_name(dtype)), of({9, 3}, dtype), of({3, 5}), of({9, 5}, dtype), of_rows, false);
    add_product(std::string(dtype_name(dtype)) + " and sums", of({9, 3}, dtype), of({3, 8}), of({9, 8}, dtype), of_rows,
                true);
  }
  add_product("scaled, both transposed", of({9, 3}), of({3, 5}), of({5, 9}),
              {{"alpha", 0.5}, {"transA", int64_t{1}}, {"transB", int64_t{1}}}, true);
}

void add_sgd(SampleList& list) {
  const auto add = [&](std::string name, DType dtype, Shape shape, std::optional<Operand> grad_scale,
                       Attributes attributes) {
    list.push_back({.name = std::move(name),
                    .op = OpKind::SgdUpdate,
                    .inputs = {of(shape, dtype), of(shape, dtype), step(3), scale(0.5), grad_scale},
                    .attributes = std::move(attributes)});
  };
  add("plain", DType::f32, {3, 5}, std::nullopt, {{"lr", 0.1}});
  add("gradient scale and weight decay", DType::f32, {3, 5}, scale(0.25), {{"lr", 0.1}, {"weight_decay", 0.01}});
  add("no elements", DType::f32, {0}, std::nullopt, {{"lr", 0.1}});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)), dtype, {7}, scale(0.25), {{"lr", 0.1}, {"weight_decay", 0.01}});
  }
}

void add_momentum(SampleList& list) {
  const auto add = [&](std::string name, DType dtype, int64_t count, std::optional<Operand> grad_scale,
                       Attributes attributes) {
    list.push_back(
        {.name = std::move(name),
         .op = OpKind::MomentumUpdate,
         .inputs = {of({3, 5}, dtype), of({3, 5}, dtype), of({3, 5}, dtype), step(count), scale(0.5), grad_scale},
         .attributes = std::move(attributes),
         .outputs = {true, true}});
  };
  add("first step", DType::f32, 1, std::nullopt, {{"lr", 0.1}, {"momentum", 0.9}, {"dampening", 0.5}});
  add("later step", DType::f32, 7, std::nullopt, {{"lr", 0.1}, {"momentum", 0.9}, {"dampening", 0.5}});
  add("nesterov", DType::f32, 7, scale(2),
      {{"lr", 0.1}, {"momentum", 0.9}, {"nesterov", int64_t{1}}, {"weight_decay", 0.1}});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    add(std::string(dtype_name(dtype)), dtype, 2, scale(0.25), {{"lr", 0.1}, {"momentum", 0.9}});
  }
}

void add_adam(SampleList& list) {
  const auto add = [&](std::string name, DType dtype, int64_t count, std::optional<Operand> grad_scale,
                       Attributes attributes) {
    list.push_back({.name = std::move(name),
                    .op = OpKind::AdamUpdate,
                    .inputs = {of({3, 5}, dtype), of({3, 5}, dtype), of({3, 5}, dtype), positive({3, 5}, dtype),
                               step(count), scale(0.5), grad_scale},
                    .attributes = std::move(attributes),
                    .outputs = {true, true, true}});
  };
  add("first step", DType::f32, 1, std::nullopt, {{"lr", 0.01}});
  add("later step", DType::f32, 1000, std::nullopt, {{"lr", 0.01}, {"beta1", 0.8}, {"beta2", 0.99}, {"epsilon", 1e-5}});
  add("weight decay", DType::f32, 3, scale(0.5), {{"lr", 0.01}, {"weight_decay", 0.1}});
  add("decoupled weight decay", DType::f32, 3, scale(0.5),
      {{"lr", 0.01}, {"weight_decay", 0.1}, {"decoupled", int64_t{1}}});
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16})
    add(std::string(dtype_name(dtype)), dtype, 2, std::nullopt, {{"lr", 0.01}});
}

// One node for several tensors, which do not end where a GPU's runs of 4096 elements do.
void add_updates_of_several(SampleList& list) {
  const auto tensors = [](size_t inputs, std::vector<Shape> shapes) {
    std::vector<std::optional<Operand>> operands;
    for (const Shape& shape : shapes) {
      for (size_t i = 0; i < inputs; ++i) operands.push_back(i == 3 ? positive(shape, DType::f32) : of(shape));
    }
    operands.push_back(step(2));
    operands.push_back(scale(0.5));
    return operands;
  };
  const std::vector<Shape> shapes = {{3, 5}, {4097}, {0}, {7}, {2, 4096}};
  list.push_back({.name = "five tensors",
                  .op = OpKind::SgdUpdate,
                  .inputs = tensors(2, shapes),
                  .attributes = {{"lr", 0.1}},
                  .outputs = std::vector<bool>(5, true)});
  list.push_back({.name = "five tensors",
                  .op = OpKind::MomentumUpdate,
                  .inputs = tensors(3, shapes),
                  .attributes = {{"lr", 0.1}, {"momentum", 0.9}},
                  .outputs = std::vector<bool>(10, true)});
  list.push_back({.name = "five tensors",
                  .op = OpKind::AdamUpdate,
                  .inputs = tensors(4, shapes),
                  .attributes = {{"lr", 0.01}},
                  .outputs = std::vector<bool>(15, true)});
  // More than one launch takes.
  list.push_back({.name = "500 tensors",
                  .op = OpKind::AdamUpdate,
                  .inputs = tensors(4, std::vector<Shape>(500, Shape{3})),
                  .attributes = {{"lr", 0.01}},
                  .outputs = std::vector<bool>(1500, true)});
}

}  // namespace

SampleList training_samples() {
  SampleList list;
  add_dropout(list);
  add_accumulate(list);
  add_sgd(list);
  add_momentum(list);
  add_adam(list);
  add_updates_of_several(list);
  list.push_back({.name = "two values",
                  .op = OpKind::Transfer,
                  .inputs = {of({3, 5}), of({0, 2}, DType::f16)},
                  .attributes = {},
                  .outputs = {true, true},
                  .tolerance = 0});
  return list;
}

}  // namespace mpc::samples
