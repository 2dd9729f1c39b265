#include "tests/cuda/zoo_nodes.h"

#include <algorithm>
#include <map>
#include <variant>

#include <doctest/doctest.h>

#include "api/reference_evaluator.h"
#include "compiler/base/text.h"
#include "compiler/cost/cluster.h"
#include "compiler/plan/plan.h"
#include "tests/cuda/model_file.h"
#include "tests/support/run_plan.h"

namespace mpc::test {
namespace {

executor::NodeSpec spec_of(const Plan& plan, const PlanNode& node) {
  executor::NodeSpec spec;
  spec.op = node.op;
  spec.attributes = &node.attributes[0];
  const auto operand = [&](PlanIndex value) {
    if (value == kNone) return executor::NodeSpec::Operand{};
    return executor::NodeSpec::Operand{plan.values[value].dtype, plan.values[value].shapes[0], true, false};
  };
  for (const PlanIndex value : node.inputs) spec.inputs.push_back(operand(value));
  for (const PlanIndex value : node.outputs) spec.outputs.push_back(operand(value));
  return spec;
}

std::string operands_text(const executor::NodeSpec& spec) {
  std::string text(op_name(spec.op));
  for (const auto* operands : {&spec.inputs, &spec.outputs}) {
    for (const auto& operand : *operands) {
      text += operand.is_present ? " " + type_text(operand.dtype, operand.shape) : std::string(" -");
    }
    text += ";";
  }
  return text;
}

}  // namespace

int for_each_zoo_node(const std::vector<ZooCase>& cases, Precision precision,
                      const std::function<bool(OpKind)>& is_wanted,
                      const std::function<void(const executor::NodeSpec&)>& check) {
  const ReferenceEvaluator evaluator;
  std::map<std::string, std::vector<Attributes>> seen;
  int count = 0;
  for (const ZooCase& c : cases) {
    CAPTURE(c.name);
    const ModelFile file(c.name, c.options);
    const onnx_io::Model model = file.load();
    for (const bool is_training : {false, true}) {
      PlanOptions options;
      options.batch = c.options.batch;
      options.train = is_training;
      options.loss = LossKind::mse;
      options.precision = precision;
      const auto made = make_plan(model, uniform_cluster(*find_device_kind("h200"), 1), options, evaluator);
      REQUIRE(std::holds_alternative<Plan>(made));
      const Plan& plan = std::get<Plan>(made);
      for (const PlanNode& node : plan.nodes) {
        if (!is_wanted(node.op)) continue;
        const executor::NodeSpec spec = spec_of(plan, node);
        const std::string key = operands_text(spec);
        Attributes attributes = *spec.attributes;
        attributes.erase("origins");  // where a fused node comes from
        std::vector<Attributes>& alike = seen[key];
        if (std::ranges::find(alike, attributes) != alike.end()) continue;
        alike.push_back(attributes);
        ++count;
        CAPTURE(key);
        check(spec);
      }
    }
  }
  return count;
}

}  // namespace mpc::test
