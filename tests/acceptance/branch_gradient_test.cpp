// Row S-O: the gradient of a value that two branches on two devices read.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "compiler/plan/check.h"
#include "tests/acceptance/rows.h"
#include "tests/support/random_graph.h"

namespace mpc::test {
namespace {

constexpr int64_t kRows = 8;
constexpr int64_t kWidth = 16;

/// y = concat(x A, x B), where x is a parameter, so that it has a gradient.
Graph two_branches() {
  Graph graph;
  graph.name = "two branches";
  const ValueId x = graph.add_parameter("x", DType::f32, {kRows, kWidth}, "x", true);
  const auto add = [&](OpKind op, const std::string& name, Attributes attributes, std::vector<ValueId> inputs,
                       Shape shape) {
    Node node;
    node.op = op;
    node.name = node.origin = name;
    node.attributes = std::move(attributes);
    node.inputs = std::move(inputs);
    const std::vector<Graph::OutputType> outputs = {{name + ":0", DType::f32, shape}};
    const NodeId id = graph.add_node(std::move(node), outputs);
    return graph.node(id).outputs[0];
  };
  std::vector<ValueId> ends;
  for (const char* branch : {"a", "b"}) {
    const ValueId weight = graph.add_parameter(branch, DType::f32, {kWidth, kWidth}, branch, true);
    ends.push_back(add(OpKind::MatMul, "branch_" + std::string(branch) + "/MatMul", {}, {x, weight}, {kRows, kWidth}));
  }
  graph.outputs = {{"y", add(OpKind::Concat, "join/Concat", {{"axis", int64_t{1}}}, ends, {kRows, 2 * kWidth})}};
  return graph;
}

struct Gradients {
  Literal x;
  Literal a;
  Literal b;
  Literal of_x;
  Literal y;
};

/// One step without an update, towards targets of zero.
Gradients gradients_on(int devices) {
  PlanOptions options = training({}, LossKind::mse, "sgd,lr=0.1");
  if (devices > 1)
    options = training({{"branch_a/", 0}, {"branch_b/", 1}, {"join/", 0}, {"loss/", 0}}, LossKind::mse, "sgd,lr=0.1");
  options.keep_outputs = true;
  const FrontGraphs graphs =
      make_front_graphs([](int64_t) { return two_branches(); }, std::nullopt, options, "two branches");
  auto result = make_plan(graphs, cpu_devices(devices), options);
  REQUIRE(std::holds_alternative<Plan>(result));
  check_plan(std::get<Plan>(result));
  executor::Session session(std::get<Plan>(result), SeededWeights(7), poisoned());
  const std::vector<float> targets(kRows * 2 * kWidth, 0.0F);
  session.bind("labels", DType::f32, Shape{kRows, 2 * kWidth}, std::as_bytes(std::span(targets)));
  executor::StepOptions no_update;
  no_update.update = false;
  session.step(no_update);
  return {session.read("x"), session.read("a"), session.read("b"), session.gradient("x"), session.output("y")};
}

TEST_CASE("S-O: the gradient of a value that two devices read is the sum of both branches' gradients") {
  const Gradients two = gradients_on(2);
  CHECK(two.of_x == gradients_on(1).of_x);
  double largest = 0;
  double error = 0;
  double smaller_branch = 0;  // had one branch been left out, the error would be of this size
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t k = 0; k < kWidth; ++k) {
      double branches[2] = {0, 0};
      for (int64_t j = 0; j < kWidth; ++j) {
        // The mean of y^2 has the gradient 2 y / n.
        const auto loss_gradient = [&](int64_t column) {
          return 2 * two.y.number(row * 2 * kWidth + column) / (kRows * 2 * kWidth);
        };
        branches[0] += loss_gradient(j) * two.a.number(k * kWidth + j);
        branches[1] += loss_gradient(kWidth + j) * two.b.number(k * kWidth + j);
      }
      const double expected = branches[0] + branches[1];
      largest = std::max(largest, std::abs(expected));
      smaller_branch = std::max(smaller_branch, std::min(std::abs(branches[0]), std::abs(branches[1])));
      error = std::max(error, std::abs(two.of_x.number(row * kWidth + k) - expected));
    }
  }
  // Sums of 32 products in f32: some 1e-7 of the largest element.
  CHECK(error <= 1e-5 * largest);
  CHECK(smaller_branch > 1e-2 * largest);
}

}  // namespace
}  // namespace mpc::test
