#include "passes/add_optimizer.h"

#include <functional>
#include <regex>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/ids.h"
#include "compiler/base/text.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

struct Setting {
  std::string_view name;
  double OptimizerSpec::* field;
  double low;
  double high;
};

constexpr double kAnyPositive = 1e30;
constexpr Setting kSettings[] = {{"lr", &OptimizerSpec::learning_rate, 0, kAnyPositive},
                                 {"momentum", &OptimizerSpec::momentum, 0, 1},
                                 {"dampening", &OptimizerSpec::dampening, 0, 1},
                                 {"beta1", &OptimizerSpec::beta1, 0, 1},
                                 {"beta2", &OptimizerSpec::beta2, 0, 1},
                                 {"eps", &OptimizerSpec::epsilon, 0, kAnyPositive},
                                 {"weight_decay", &OptimizerSpec::weight_decay, 0, kAnyPositive}};

struct KindRow {
  std::string_view name;
  OptimizerKind kind;
  double learning_rate;
  double weight_decay;
};
constexpr KindRow kKinds[] = {{"sgd", OptimizerKind::sgd, 0.01, 0},
                              {"momentum", OptimizerKind::momentum, 0.01, 0},
                              {"adam", OptimizerKind::adam, 0.001, 0},
                              {"adamw", OptimizerKind::adamw, 0.001, 0.01}};

void apply_setting(OptimizerSpec& spec, std::string_view text, const std::string& item) {
  const std::string where = fmt::format("--optimizer {}", text);
  const size_t equals = item.find('=');
  const std::string name = item.substr(0, equals);
  constexpr double kNoNumber = -1;  // below every setting's range
  const double number = equals == std::string::npos ? kNoNumber : parse_number(item.substr(equals + 1)).value_or(kNoNumber);
  if (name == "nesterov") {
    spec.nesterov = equals == std::string::npos || number > 0;
    return;
  }
  for (const Setting& setting : kSettings) {
    if (setting.name != name) continue;
    if (!(number >= setting.low && number <= setting.high)) {
      throw Error(ErrorId::M003, where, fmt::format("'{}' needs a number from {} to {}", item, setting.low, setting.high));
    }
    spec.*setting.field = number;
    return;
  }
  throw Error(ErrorId::M002, where, fmt::format("'{}' is not a setting", name), "use lr, momentum, dampening, nesterov, beta1, beta2, eps or weight_decay");
}

class OptimizerBuilder {
 public:
  OptimizerBuilder(Graph graph, const OptimizerOptions& options)
      : graph_(std::move(graph)), options_(options), first_reader_(static_cast<size_t>(graph_.value_count())) {
    for (int i = graph_.node_count() - 1; i >= 0; --i) {
      const Node& node = graph_.node(NodeId(i));
      if (node.phase != Phase::forward) continue;
      for (const ValueId input : node.inputs) {
        if (input.is_valid()) first_reader_[input] = NodeId(i);
      }
    }
  }

  Graph run() {
    step_ = graph_.add_input(std::string(kStepInput), DType::i64, Shape{}, Rate::per_step);
    scale_ = graph_.add_input(std::string(kLearningRateScaleInput), DType::f32, Shape{}, Rate::per_step);
    const ValueId clip = options_.clip_norm > 0 ? clip_factor() : ValueId{};
    for (size_t i = 0; i < graph_.gradients.size(); ++i) add_update(graph_.gradients[i], clip);
    return std::move(graph_);
  }

 private:
  // A parameter lives beside its first reader (a Cast of it, say), wherever its gradient is summed.
  NodeId home_of(ValueId parameter) const { return first_reader_[parameter]; }

  ValueId emit(OpKind op, std::vector<ValueId> inputs, Attributes attributes, std::string name, NodeId anchor) {
    NodeInfo info;
    info.name = std::move(name);
    info.phase = Phase::update;
    info.anchor = anchor;
    info.origin = graph_.node(anchor).origin;
    return graph_.node(append(graph_, op, std::move(inputs), std::move(attributes), std::move(info))).outputs[0];
  }

  // min(1, clip_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ does.
  ValueId clip_factor() {
    ValueId sum;
    NodeId anchor;
    for (const ParameterGradient& g : graph_.gradients) {
      anchor = home_of(g.parameter);
      ValueId squares = emit(OpKind::ReduceSumSquare, {g.gradient}, {{"keepdims", int64_t{0}}}, "clip/" + graph_.value(g.parameter).name, anchor);
      if (graph_.value(squares).dtype != DType::f32) squares = emit(OpKind::Cast, {squares}, {{"to", std::string("f32")}}, "clip/cast", anchor);
      sum = sum.is_valid() ? emit(OpKind::Add, {sum, squares}, {}, "clip/sum", anchor) : squares;
    }
    const ValueId norm = emit(OpKind::Sqrt, {sum}, {}, "clip/norm", anchor);
    graph_.outputs.push_back({"gradient_norm", norm});
    const ValueId guard = graph_.add_constant("clip/guard", Literal::scalar(DType::f32, 1e-6));
    const ValueId most = graph_.add_constant("clip/most", Literal::scalar(DType::f32, options_.clip_norm));
    const ValueId one = graph_.add_constant("clip/one", Literal::scalar(DType::f32, 1));
    const ValueId ratio = emit(OpKind::Div, {most, emit(OpKind::Add, {norm, guard}, {}, "clip/guarded", anchor)}, {}, "clip/ratio", anchor);
    return emit(OpKind::Min, {ratio, one}, {}, "clip/factor", anchor);
  }

  const OptimizerSpec& spec_of(const std::string& parameter) {
    if (group_patterns_.empty()) {
      for (const ParameterGroup& group : options_.groups) {
        try {
          group_patterns_.emplace_back(group.pattern);
        } catch (const std::regex_error& error) {
          throw Error(ErrorId::M003, "parameter group " + group.pattern, std::string("is not a regular expression: ") + error.what());
        }
      }
    }
    for (size_t i = 0; i < group_patterns_.size(); ++i) {
      if (std::regex_match(parameter, group_patterns_[i])) return options_.groups[i].optimizer;
    }
    return options_.optimizer;
  }

  ValueId add_state(std::string_view what, const Value& parameter) {
    return graph_.add_state(fmt::format("{}/{}", what, parameter.name), Literal::splat_number(parameter.dtype, parameter.shape, 0));
  }

  void add_update(const ParameterGradient& g, ValueId clip) {
    const Value parameter = graph_.value(g.parameter);
    const OptimizerSpec& spec = spec_of(parameter.name);
    const NodeId anchor = home_of(g.parameter);
    std::vector<ValueId> persistent = {g.parameter};
    OpKind op = OpKind::SgdUpdate;
    Attributes attributes = {{"lr", spec.learning_rate}, {"weight_decay", spec.weight_decay}};
    if (spec.kind == OptimizerKind::momentum) {
      op = OpKind::MomentumUpdate;
      persistent.push_back(add_state("momentum", parameter));
      attributes.set("momentum", spec.momentum);
      attributes.set("dampening", spec.dampening);
      attributes.set("nesterov", int64_t{spec.nesterov});
    } else if (spec.kind != OptimizerKind::sgd) {
      op = OpKind::AdamUpdate;
      persistent.push_back(add_state("adam.m", parameter));
      persistent.push_back(add_state("adam.v", parameter));
      attributes.set("beta1", spec.beta1);
      attributes.set("beta2", spec.beta2);
      attributes.set("epsilon", spec.epsilon);
      attributes.set("decoupled", int64_t{spec.kind == OptimizerKind::adamw});
    }
    std::vector<ValueId> inputs = {g.parameter, g.gradient};
    inputs.insert(inputs.end(), persistent.begin() + 1, persistent.end());
    inputs.insert(inputs.end(), {step_, scale_, clip});
    NodeInfo info;
    info.name = "update/" + parameter.name;
    info.phase = Phase::update;
    info.anchor = anchor;
    info.origin = graph_.node(anchor).origin;
    for (const ValueId id : persistent) info.output_names.push_back(graph_.value(id).name + "/next");
    const NodeId node = append(graph_, op, std::move(inputs), std::move(attributes), std::move(info));
    for (size_t i = 0; i < persistent.size(); ++i) graph_.updates.push_back({persistent[i], graph_.node(node).outputs[i]});
  }

  Graph graph_;
  const OptimizerOptions& options_;
  IdMap<ValueId, NodeId> first_reader_;
  ValueId step_;
  ValueId scale_;
  std::vector<std::regex> group_patterns_;
};

}  // namespace

std::string_view optimizer_name(OptimizerKind kind) { return kKinds[static_cast<size_t>(kind)].name; }

OptimizerSpec parse_optimizer(std::string_view text) {
  const std::vector<std::string> items = split(text, ',');
  std::vector<std::string> names;
  for (const KindRow& row : kKinds) {
    names.emplace_back(row.name);
    if (row.name != items[0]) continue;
    OptimizerSpec spec;
    spec.kind = row.kind;
    spec.learning_rate = row.learning_rate;
    spec.weight_decay = row.weight_decay;
    for (size_t i = 1; i < items.size(); ++i) apply_setting(spec, text, items[i]);
    return spec;
  }
  const auto near = nearest(items[0], names);
  throw Error(ErrorId::M002, fmt::format("--optimizer {}", text), fmt::format("'{}' is not an optimizer", items[0]), near ? "did you mean '" + *near + "'?" : "use sgd, momentum, adam or adamw");
}

Graph add_optimizer(const Graph& graph, const OptimizerOptions& options) { return OptimizerBuilder(graph, options).run(); }

}  // namespace mpc
