// Conformance: what must hold for every op, shown on its samples (tests/ops/*_samples.cpp).

#include <algorithm>
#include <cmath>
#include <set>

#include <doctest/doctest.h>

#include "compiler/base/error.h"
#include "compiler/ir/parse.h"
#include "compiler/ir/print.h"
#include "compiler/ops/builder.h"
#include "compiler/ops/verify_types.h"
#include "tests/ops/backends.h"
#include "tests/ops/cases.h"
#include "tests/ops/gradient_check.h"
#include "tests/ops/sample.h"
#include "tests/support/interpreter.h"

namespace mpc::test {
namespace {

using samples::Sample;

/// Calls f(sample) for every sample; an Error fails the sample and not the whole run.
template <class F>
void for_each_sample(F&& f) {
  for (const Sample& sample : samples::all_samples()) {
    const std::string name = full_name(sample);
    INFO(name);
    try {
      f(sample);
    } catch (const std::exception& error) {
      FAIL_CHECK(std::string(error.what()));
    }
  }
}

Tensors run(const Sample& sample, const Case& c, std::byte poison) {
  return run_reference(sample.op, c.attributes, c.inputs, c.outputs,
                       {.step = kSampleStep, .poison = poison, .in_place = {}});
}

/// The sample as a graph of one node.
Graph graph_of(const Sample& sample) {
  Graph graph;
  graph.name = "sample";
  std::vector<ValueId> inputs;
  const Tensors operands = operands_of(sample);
  for (size_t i = 0; i < operands.size(); ++i) {
    inputs.push_back(operands[i] ? graph.add_input("x" + std::to_string(i), operands[i]->dtype(), operands[i]->shape())
                                 : ValueId{});
  }
  NodeInfo info;
  info.name = "node";
  for (size_t i = 0; i < sample.outputs.size(); ++i)
    info.output_names.push_back(sample.outputs[i] ? "y" + std::to_string(i) : "");
  const NodeId node = append(graph, sample.op, inputs, sample.attributes, info);
  for (const ValueId id : graph.node(node).outputs) {
    if (id.is_valid()) graph.outputs.push_back({graph.value(id).name, id});
  }
  return graph;
}

/// ||a - b|| / ||b|| in f64 over the finite elements; infinite when dtype, shape or the place of a non-finite number
/// differ.
double relative_difference(const Literal& a, const Literal& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return INFINITY;
  const std::vector<double> as = numbers_of(a);
  const std::vector<double> bs = numbers_of(b);
  double difference = 0;
  double total = 0;
  for (size_t i = 0; i < as.size(); ++i) {
    if (std::isnan(as[i]) && std::isnan(bs[i])) continue;
    if (as[i] == bs[i] && std::isinf(as[i])) continue;
    if (!std::isfinite(as[i]) || !std::isfinite(bs[i])) return INFINITY;
    difference += (as[i] - bs[i]) * (as[i] - bs[i]);
    total += bs[i] * bs[i];
  }
  if (difference == 0) return 0;
  return total == 0 ? INFINITY : std::sqrt(difference / total);
}

/// "", or why the backend declines the case.
std::string check_backend(const Backend& backend, const Sample& sample, const Case& c, double tolerance) {
  const auto result = backend.run(sample.op, c.attributes, c.inputs, c.outputs, kSampleStep);
  if (const auto* declined = std::get_if<Declined>(&result)) return declined->reason;
  const Tensors expected = run(sample, c, std::byte{0xFF});
  const Tensors& found = std::get<Tensors>(result);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!expected[i]) continue;
    const double difference = relative_difference(*found[i], *expected[i]);
    CHECK_MESSAGE(difference <= tolerance, "result " << i << " differs by " << difference);
  }
  return "";
}

}  // namespace

TEST_CASE("conformance: sample names are unique within an op") {
  std::set<std::string> names;
  for (const Sample& sample : samples::all_samples())
    CHECK_MESSAGE(names.insert(full_name(sample)).second, full_name(sample));
}

TEST_CASE("conformance: every op has a sample, and every differentiable op one whose gradient is checked") {
  std::set<OpKind> sampled;
  std::set<OpKind> checked;
  for (const Sample& sample : samples::all_samples()) {
    sampled.insert(sample.op);
    if (has_gradient_check(sample)) checked.insert(sample.op);
  }
  std::string without_sample;
  std::string without_check;
  std::string inconsistent;
  for (int i = 0; i < kOpCount; ++i) {
    const OpKind op = static_cast<OpKind>(i);
    const OpDef& def = op_def(op);
    const std::string name = std::string(op_name(op)) + " ";
    if (def.op != op || def.infer == nullptr) inconsistent += name;
    if ((def.differentiable == Differentiable::yes) != (def.gradient != nullptr)) inconsistent += name;
    if (!sampled.contains(op)) without_sample += name;
    if (def.differentiable == Differentiable::yes && !checked.contains(op)) without_check += name;
  }
  CHECK(inconsistent == "");
  CHECK(without_sample == "");
  CHECK(without_check == "");
}

TEST_CASE("conformance: canonical attributes are complete and infer to themselves") {
  for_each_sample([](const Sample& sample) {
    const Case c = case_of(sample);
    Attributes again = c.attributes;
    Types outputs =
        infer_types(sample.op, full_name(sample), again, types_of(c.inputs), static_cast<int>(sample.outputs.size()));
    CHECK(again == c.attributes);
    for (size_t i = 0; i < outputs.size(); ++i) {
      CHECK(outputs[i].has_value());  // inference gives a type to every output, wanted or not
      if (c.outputs[i]) CHECK(outputs[i] == c.outputs[i]);
    }
    for (const AttributeSpec& spec : op_def(sample.op).attributes) {
      if (!spec.is_optional) CHECK_MESSAGE(c.attributes.has(spec.name), spec.name);
    }
  });
}

TEST_CASE("conformance: inference gives the same shapes for f64 as for f32") {
  for_each_sample([](const Sample& sample) {
    const Case c = case_of(sample);
    Attributes attributes = sample.attributes;
    const Tensors inputs = operands_of(sample, samples::Floats::f64);
    // Scalars that are f32 whatever the parameter is do not follow the others: only samples of one float type are
    // taken.
    if (!has_gradient_check(sample)) return;
    const Types outputs = infer_types(sample.op, full_name(sample), attributes, types_of(inputs),
                                      static_cast<int>(sample.outputs.size()));
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (c.outputs[i]) CHECK(outputs[i]->shape == c.outputs[i]->shape);
    }
  });
}

TEST_CASE(
    "conformance: reference kernels overwrite all of their results and nothing else, with the same bits every time") {
  for_each_sample([](const Sample& sample) {
    const Case c = case_of(sample);
    const Tensors first = run(sample, c, std::byte{0xFF});  // NaN in every float type
    const Tensors second = run(sample, c, std::byte{0x3C});
    const Tensors third = run(sample, c, std::byte{0xFF});
    CHECK((first == second));
    CHECK((first == third));
  });
}

TEST_CASE("conformance: results do not depend on absent optional results") {
  for_each_sample([](const Sample& sample) {
    const size_t required = static_cast<size_t>(op_def(sample.op).min_outputs);
    const Case c = case_of(sample);
    if (c.outputs.size() <= required) return;
    // Results of any number are all there, when each replaces an operand.
    if (op_def(sample.op).max_outputs == OpDef::kVariadic && aliased_input(sample.op, 0)) return;
    const Tensors all = run(sample, c, std::byte{0xFF});
    for (size_t i = 0; i < c.outputs.size(); ++i) {
      Case only = c;
      for (size_t k = required; k < only.outputs.size(); ++k) {
        if (k != i) only.outputs[k].reset();
      }
      const Tensors results = run(sample, only, std::byte{0xFF});
      CHECK_MESSAGE((results[i] == all[i]), "result " << i);
    }
  });
}

TEST_CASE("conformance: a result may be written over the operand that ops.def allows") {
  for_each_sample([](const Sample& sample) {
    const Case c = case_of(sample);
    const Types input_types = types_of(c.inputs);
    const Tensors expected = run(sample, c, std::byte{0xFF});
    const auto check = [&](std::vector<int> in_place) {
      const Tensors results =
          run_reference(sample.op, c.attributes, c.inputs, c.outputs,
                        {.step = kSampleStep, .poison = std::byte{0xFF}, .in_place = std::move(in_place)});
      CHECK((results == expected));
    };
    std::vector<int> aliases(c.outputs.size(), -1);
    bool has_alias = false;
    for (size_t i = 0; i < aliases.size(); ++i) {
      const auto operand = aliased_input(sample.op, static_cast<int>(i));
      if (!operand || !c.outputs[i]) continue;
      aliases[i] = *operand;
      has_alias = true;
      REQUIRE((input_types[static_cast<size_t>(*operand)] == c.outputs[i]));
    }
    if (has_alias) check(aliases);
    if (op_share(sample.op) != Share::kElementwise) return;
    for (size_t i = 0; i < input_types.size(); ++i) {
      if (input_types[i] && input_types[i] == c.outputs[0]) check({static_cast<int>(i)});
    }
  });
}

TEST_CASE("conformance: gradient rules agree with finite differences") {
  for_each_sample([](const Sample& sample) {
    if (!has_gradient_check(sample)) return;
    const auto wrong = check_gradient(sample);
    CHECK_MESSAGE(!wrong.has_value(), wrong.value_or(""));
  });
}

TEST_CASE("conformance: costs are finite and not negative") {
  for_each_sample([](const Sample& sample) {
    const Case c = case_of(sample);
    const Types inputs = types_of(c.inputs);
    const OpQuantities quantities = op_quantities(sample.op, {c.attributes, inputs, c.outputs});
    CHECK(std::isfinite(quantities.flops));
    CHECK(quantities.flops >= 0);
    CHECK(quantities.workspace_bytes >= 0);
  });
}

TEST_CASE("conformance: a graph of one node survives its text form") {
  for_each_sample([](const Sample& sample) {
    const Graph graph = graph_of(sample);
    const std::string text = print(graph);
    const Graph parsed = parse_graph(text);
    CHECK(print(parsed) == text);
    REQUIRE(parsed.node_count() == 1);
    CHECK((parsed.node(NodeId(0)).attributes == graph.node(NodeId(0)).attributes));
    verify_types(parsed);
  });
}

TEST_CASE("conformance: every backend agrees with the reference") {
  for (const Backend& backend : backends()) {
    INFO(backend.name);
    for_each_sample([&](const Sample& sample) { check_backend(backend, sample, case_of(sample), sample.tolerance); });
  }
}

TEST_CASE("conformance: the CUDA backend has a kernel for every sample, in f64 too, and agrees with the reference") {
  const Backend& backend = backends().back();
  REQUIRE(backend.name == "cuda on the host");
  std::string declined;
  int widened = 0;
  for_each_sample([&](const Sample& sample) {
    if (sample.op == OpKind::Transfer) return;  // transports carry it out
    const auto check = [&](const Case& c, double tolerance) {
      const std::string reason = check_backend(backend, sample, c, tolerance);
      if (!reason.empty()) declined += full_name(sample) + ": " + reason + "\n";
    };
    check(case_of(sample), sample.tolerance);
    if (!takes_f64(sample)) return;
    ++widened;
    // Both sides compute in f64; what differs is the order of sums, and a few units of the mathematical functions.
    constexpr double kTolerance = 1e-12;
    check(case_of(sample, samples::Floats::f64), kTolerance);
  });
  CHECK(declined == "");
  CHECK(widened > 200);  // most samples are f32
}

}  // namespace mpc::test
