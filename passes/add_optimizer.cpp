#include "passes/add_optimizer.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <regex>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/ids.h"
#include "compiler/base/text.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

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

constexpr unsigned bit(OptimizerKind kind) {
  return 1U << static_cast<unsigned>(kind);
}
constexpr unsigned kMomentum = bit(OptimizerKind::momentum);
constexpr unsigned kAdams = bit(OptimizerKind::adam) | bit(OptimizerKind::adamw);
constexpr unsigned kAll = bit(OptimizerKind::sgd) | kMomentum | kAdams;

struct Setting {
  std::string_view name;
  unsigned kinds;  // that have it
  double OptimizerSpec::*field;
  double low;
  double high;
};

constexpr double kAnyPositive = 1e30;
constexpr Setting kSettings[] = {{"lr", kAll, &OptimizerSpec::learning_rate, 0, kAnyPositive},
                                 {"momentum", kMomentum, &OptimizerSpec::momentum, 0, 1},
                                 {"dampening", kMomentum, &OptimizerSpec::dampening, 0, 1},
                                 {"nesterov", kMomentum, nullptr, 0, 1},
                                 {"beta1", kAdams, &OptimizerSpec::beta1, 0, 1},
                                 {"beta2", kAdams, &OptimizerSpec::beta2, 0, 1},
                                 {"eps", kAdams, &OptimizerSpec::epsilon, 0, kAnyPositive},
                                 {"weight_decay", kAll, &OptimizerSpec::weight_decay, 0, kAnyPositive}};

std::string settings_of(OptimizerKind kind) {
  std::string names;
  for (const Setting& setting : kSettings) {
    if ((setting.kinds & bit(kind)) != 0) names += (names.empty() ? "" : ", ") + std::string(setting.name);
  }
  return names;
}

// "nesterov" alone turns it on.
std::optional<bool> parse_switch(std::string_view text) {
  if (text == "nesterov" || text == "nesterov=1" || text == "nesterov=true") return true;
  if (text == "nesterov=0" || text == "nesterov=false") return false;
  return std::nullopt;
}

void apply_setting(OptimizerSpec& spec, std::string_view text, const std::string& item) {
  const std::string where = fmt::format("--optimizer {}", text);
  const size_t equals = item.find('=');
  const std::string name = item.substr(0, equals);
  const auto setting = std::ranges::find(kSettings, name, &Setting::name);
  if (setting == std::end(kSettings) || (setting->kinds & bit(spec.kind)) == 0) {
    throw Error(ErrorId::M002, where, fmt::format("'{}' is not a setting of {}", name, optimizer_name(spec.kind)),
                "it has " + settings_of(spec.kind));
  }
  if (setting->field == nullptr) {
    const std::optional<bool> is_on = parse_switch(item);
    if (!is_on) throw Error(ErrorId::M003, where, fmt::format("'{}' is neither 0 nor 1", item));
    spec.nesterov = *is_on;
    return;
  }
  const std::optional<double> number =
      equals == std::string::npos ? std::nullopt : parse_number(item.substr(equals + 1));
  if (!number || !(*number >= setting->low && *number <= setting->high)) {
    throw Error(ErrorId::M003, where,
                fmt::format("'{}' needs a number from {} to {}", item, setting->low, setting->high));
  }
  spec.*setting->field = *number;
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
    compile_groups();
    step_ = graph_.add_input(std::string(kStepInput), DType::i64, Shape{}, Rate::per_step);
    scale_ = graph_.add_input(std::string(kLearningRateScaleInput), DType::f32, Shape{}, Rate::per_step);
    const ValueId factor = options_.loss_scale ? unscale() : options_.clip_norm > 0 ? clip_factor(norm()) : ValueId{};
    for (size_t i = 0; i < graph_.gradients.size(); ++i) add_update(graph_.gradients[i], factor);
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

  // Of all gradients together; where the last parameter with one lives.
  ValueId norm() {
    ValueId sum;
    for (const ParameterGradient& g : graph_.gradients) {
      last_home_ = home_of(g.parameter);
      ValueId squares = emit(OpKind::ReduceSumSquare, {g.gradient}, {{"keepdims", int64_t{0}}},
                             "clip/" + graph_.value(g.parameter).name, last_home_);
      if (graph_.value(squares).dtype != DType::f32)
        squares = emit(OpKind::Cast, {squares}, {{"to", std::string("f32")}}, "clip/cast", last_home_);
      sum = sum.is_valid() ? emit(OpKind::Add, {sum, squares}, {}, "clip/sum", last_home_) : squares;
    }
    return emit(OpKind::Sqrt, {sum}, {}, "clip/norm", last_home_);
  }

  // min(1, clip_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ does.
  ValueId clip_factor(ValueId norm) {
    graph_.outputs.push_back({"gradient_norm", norm});
    const ValueId guarded =
        emit(OpKind::Add, {norm, number("clip/guard", DType::f32, 1e-6)}, {}, "clip/guarded", last_home_);
    const ValueId most = number("clip/most", DType::f32, options_.clip_norm);
    const ValueId one = number("clip/one", DType::f32, 1);
    const ValueId ratio = emit(OpKind::Div, {most, guarded}, {}, "clip/ratio", last_home_);
    return emit(OpKind::Min, {ratio, one}, {}, "clip/factor", last_home_);
  }

  // What the gradients are multiplied by: 1 / scale (and what clipping wants of them), or NaN for a step to be skipped.
  // The norm of all of them tells: it is no number when one of them is none. Updates scale and counters, and numbers
  // the updates by the steps that were taken.
  ValueId unscale() {
    const LossScale& state = *options_.loss_scale;
    // Where the seed of the backward pass is read: a state lives on one device.
    const NodeId loss_home = graph_.value(graph_.loss).producer;
    const auto scope = [&](OpKind op, std::vector<ValueId> inputs, std::string_view what) {
      return emit(op, std::move(inputs), {}, fmt::format("loss_scale/{}", what), loss_home);
    };
    const ValueId scaled_norm = norm();
    const ValueId is_good = scope(
        OpKind::Less, {scaled_norm, number("loss_scale/infinity", DType::f32, std::numeric_limits<double>::infinity())},
        "is_good");
    ValueId factor = scope(OpKind::Reciprocal, {state.scale}, "inverse");
    if (options_.clip_norm > 0)
      factor = scope(OpKind::Mul, {factor, clip_factor(scope(OpKind::Mul, {scaled_norm, factor}, "norm"))}, "factor");
    factor = scope(OpKind::Where,
                   {is_good, factor, number("loss_scale/skip", DType::f32, std::numeric_limits<double>::quiet_NaN())},
                   "gradient_factor");

    const ValueId none = number("loss_scale/none", DType::f32, 0);
    const ValueId one = number("loss_scale/one", DType::f32, 1);
    const ValueId longer = scope(OpKind::Add, {state.good, one}, "longer");
    const ValueId interval =
        number("loss_scale/interval", DType::f32, static_cast<double>(state.options.growth_interval));
    const ValueId grows = scope(OpKind::GreaterOrEqual, {longer, interval}, "grows");
    const ValueId larger = scope(OpKind::Mul, {state.scale, number("loss_scale/growth", DType::f32, 2)}, "larger");
    // A scale that overflows itself would never come back.
    const ValueId grown = scope(OpKind::Min, {larger, number("loss_scale/most", DType::f32, 0x1p60)}, "grown");
    const ValueId smaller = scope(OpKind::Mul, {state.scale, number("loss_scale/backoff", DType::f32, 0.5)}, "smaller");
    const ValueId kept = scope(OpKind::Where, {grows, grown, state.scale}, "kept");
    const ValueId next = scope(OpKind::Where, {is_good, kept, smaller}, "next");
    const ValueId again = scope(OpKind::Where, {grows, none, longer}, "again");
    const ValueId next_good = scope(OpKind::Where, {is_good, again, none}, "good/next");
    const ValueId next_skipped =
        scope(OpKind::Add, {state.skipped, scope(OpKind::Where, {is_good, none, one}, "is_skipped")}, "skipped/next");
    const ValueId skipped =
        emit(OpKind::Cast, {state.skipped}, {{"to", std::string("i64")}}, "loss_scale/skipped/whole", loss_home);
    step_ = scope(OpKind::Sub, {step_, skipped}, "step");
    replace(state.scale, next, one, loss_home);
    replace(state.good, next_good, one, loss_home);
    replace(state.skipped, next_skipped, one, loss_home);
    return factor;
  }

  // A state is replaced by what is written over it: `state - 1 (state - next)`. These are powers of two and small whole
  // numbers, of which nothing is rounded.
  void replace(ValueId state, ValueId next, ValueId one, NodeId home) {
    const std::string name = graph_.value(state).name;
    const ValueId change = emit(OpKind::Sub, {state, next}, {}, name + "/change", home);
    const ValueId first = number(name + "/step", DType::i64, 1);
    const Attributes attributes = {{"lr", 1.0}, {"weight_decay", 0.0}};
    graph_.updates.push_back(
        {state, emit(OpKind::SgdUpdate, {state, change, first, one}, attributes, "update/" + name, home)});
  }

  ValueId number(std::string_view name, DType dtype, double value) {
    return graph_.add_constant(std::string(name), Literal::scalar(dtype, value));
  }

  // @throws Error(M002) for a group without parameters, frozen ones too: a misspelled one would train with the others'
  // settings.
  void compile_groups() {
    for (const ParameterGroup& group : options_.groups) {
      const std::string where = "--group " + group.pattern;
      try {
        group_patterns_.emplace_back(group.pattern);
      } catch (const std::regex_error& error) {
        throw Error(ErrorId::M003, where, std::string("is not a regular expression: ") + error.what());
      }
      std::string some_parameter;
      bool is_used = false;
      for (int i = 0; i < graph_.value_count() && !is_used; ++i) {
        const Value& value = graph_.value(ValueId(i));
        if (value.kind != ValueKind::parameter) continue;
        some_parameter = value.name;
        is_used = std::regex_match(value.name, group_patterns_.back());
      }
      if (is_used) continue;
      throw Error(ErrorId::M002, where, "matches the whole name of no parameter",
                  some_parameter.empty() ? "" : fmt::format("one is '{}'", some_parameter));
    }
  }

  const OptimizerSpec& spec_of(const std::string& parameter) const {
    for (size_t i = 0; i < group_patterns_.size(); ++i) {
      if (std::regex_match(parameter, group_patterns_[i])) return options_.groups[i].optimizer;
    }
    return options_.optimizer;
  }

  ValueId add_state(std::string_view what, const Value& parameter) {
    return graph_.add_state(fmt::format("{}/{}", what, parameter.name),
                            Literal::splat_number(parameter.dtype, parameter.shape, 0));
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
    for (size_t i = 0; i < persistent.size(); ++i)
      graph_.updates.push_back({persistent[i], graph_.node(node).outputs[i]});
  }

  Graph graph_;
  const OptimizerOptions& options_;
  IdMap<ValueId, NodeId> first_reader_;
  ValueId step_;
  ValueId scale_;
  NodeId last_home_;
  std::vector<std::regex> group_patterns_;
};

}  // namespace

std::string_view optimizer_name(OptimizerKind kind) {
  return kKinds[static_cast<size_t>(kind)].name;
}

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
    // sgd with a momentum is what others call SGD.
    const auto is_momentum = [](const std::string& item) { return item.starts_with("momentum="); };
    if (spec.kind == OptimizerKind::sgd && std::any_of(items.begin() + 1, items.end(), is_momentum))
      spec.kind = OptimizerKind::momentum;
    for (size_t i = 1; i < items.size(); ++i) apply_setting(spec, text, items[i]);
    return spec;
  }
  const auto near = nearest(items[0], names);
  throw Error(ErrorId::M002, fmt::format("--optimizer {}", text), fmt::format("'{}' is not an optimizer", items[0]),
              near ? "did you mean '" + *near + "'?" : "use sgd, momentum, adam or adamw");
}

Graph add_optimizer(const Graph& graph, const OptimizerOptions& options) {
  return OptimizerBuilder(graph, options).run();
}

}  // namespace mpc
