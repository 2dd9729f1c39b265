#include "compiler/ir/verify.h"

#include <unordered_set>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"

// Each rule is a function that gives the first violation it finds, or an empty text. They run in order, and each may
// rely on those before it: once the ids are known to be in range, nothing checks them again.

namespace mpc {
namespace {

std::string describe(const Value& value) {
  return fmt::format("value {}", in_quotes(value.name));
}

class Verifier {
 public:
  explicit Verifier(const Graph& graph) : graph_(graph) {}

  std::string run() {
    using Rule = std::string (Verifier::*)();
    constexpr Rule kRules[] = {
        &Verifier::operands,     &Verifier::value_names, &Verifier::node_names, &Verifier::values,
        &Verifier::graph_inputs, &Verifier::outputs,     &Verifier::order,      &Verifier::results,
        &Verifier::rates,        &Verifier::aliases,     &Verifier::updates,    &Verifier::gradients,
        &Verifier::loss,         &Verifier::phases,      &Verifier::transfers,  &Verifier::devices};
    for (const Rule rule : kRules) {
      std::string violation = (this->*rule)();
      if (!violation.empty()) return violation;
    }
    return {};
  }

 private:
  bool exists(ValueId id) const { return id.is_valid() && id.index() < graph_.values().size(); }
  NodeId producer(ValueId id) const { return graph_.value(id).producer; }

  std::string operands() {
    for (const Node& node : graph_.nodes()) {
      for (const ValueId id : node.inputs) {
        if (id.is_valid() && !exists(id))
          return fmt::format("{} reads value number {}, which does not exist", mpc::describe(node), id.index());
      }
      for (const ValueId id : node.outputs) {
        if (id.is_valid() && !exists(id))
          return fmt::format("{} makes value number {}, which does not exist", mpc::describe(node), id.index());
      }
    }
    return {};
  }

  template <class Items>
  static std::string unique_names(const Items& items, std::string_view what) {
    std::unordered_set<std::string_view> seen;
    for (const auto& item : items) {
      if (item.name.empty()) return fmt::format("a {} has no name", what);
      if (!seen.insert(item.name).second) return fmt::format("two {}s have the name {}", what, in_quotes(item.name));
    }
    return {};
  }
  std::string value_names() { return unique_names(graph_.values(), "value"); }
  std::string node_names() { return unique_names(graph_.nodes(), "node"); }

  std::string values() {
    for (size_t i = 0; i < graph_.values().size(); ++i) {
      const Value& value = graph_.values()[i];
      const bool is_persistent = value.kind == ValueKind::parameter || value.kind == ValueKind::state;
      const bool has_literal = value.kind == ValueKind::constant || value.kind == ValueKind::state;
      if (value.kind == ValueKind::node) {
        const std::string made = made_value(ValueId(i));
        if (!made.empty()) return made;
      } else if (value.producer.is_valid()) {
        return fmt::format("{} is of kind {} and names a producer", describe(value), value_kind_name(value.kind));
      }
      if ((is_persistent || value.kind == ValueKind::constant) && value.rate != Rate::per_step) {
        return fmt::format("{} is of kind {} and not per step", describe(value), value_kind_name(value.kind));
      }
      if (has_literal && !has_content(value))
        return fmt::format("the content of {} is not of type {}", describe(value), type_text(value.dtype, value.shape));
      if (value.kind != ValueKind::parameter && (value.trainable || !value.source.empty())) {
        return fmt::format("{} is no parameter, yet trainable or from an initializer", describe(value));
      }
      if (!value.recipe.is_empty()) {
        const bool may_have = value.kind == ValueKind::parameter && !value.trainable;
        const std::string problem = may_have ? find_problem(value.recipe, value.dtype, value.shape)
                                             : "only a parameter that is not trained has one";
        if (!problem.empty()) return fmt::format("the recipe of {}: {}", describe(value), problem);
      }
      if (value.trainable && !is_float(value.dtype))
        return fmt::format("{} is trainable and of type {}", describe(value), dtype_name(value.dtype));
    }
    return {};
  }

  static bool has_content(const Value& value) {
    const Literal& literal = value.literal;
    const int64_t bytes = literal.is_splat() ? dtype_bytes(value.dtype) : value.bytes();
    return literal.dtype() == value.dtype && literal.shape() == value.shape &&
           static_cast<int64_t>(literal.stored().size()) == bytes;
  }

  std::string made_value(ValueId id) const {
    const Value& value = graph_.value(id);
    if (!value.producer.is_valid() || value.producer.index() >= graph_.nodes().size())
      return fmt::format("{} has no producer", describe(value));
    const Node& node = graph_.node(value.producer);
    const bool agrees = value.output_index >= 0 && static_cast<size_t>(value.output_index) < node.outputs.size() &&
                        node.outputs[static_cast<size_t>(value.output_index)] == id;
    if (!agrees)
      return fmt::format("{} names output {} of {}, which is another value", describe(value), value.output_index,
                         mpc::describe(node));
    return {};
  }

  std::string graph_inputs() {
    std::vector<int> times(graph_.values().size());
    for (const ValueId id : graph_.inputs) {
      if (!exists(id)) return "an input of the graph does not exist";
      if (graph_.value(id).kind != ValueKind::input)
        return fmt::format("{} is an input of the graph, but of another kind", describe(graph_.value(id)));
      ++times[id.index()];
    }
    for (size_t i = 0; i < times.size(); ++i) {
      const Value& value = graph_.values()[i];
      if (value.kind == ValueKind::input && times[i] != 1)
        return fmt::format("{} stands {} times among the inputs", describe(value), times[i]);
    }
    return {};
  }

  // The other half of made_value: each present output names this node as its producer.
  std::string outputs() {
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const Node& node = graph_.nodes()[n];
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        if (!node.outputs[i].is_valid()) continue;
        const Value& value = graph_.value(node.outputs[i]);
        if (value.kind != ValueKind::node || value.producer != NodeId(n) || value.output_index != static_cast<int>(i)) {
          return fmt::format("output {} of {} is {}, which another producer makes", i, mpc::describe(node),
                             describe(value));
        }
      }
    }
    return {};
  }

  std::string order() {
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      for (const ValueId id : graph_.nodes()[n].inputs) {
        if (id.is_valid() && producer(id).is_valid() && producer(id) >= NodeId(n)) {
          return fmt::format("{} reads {} before it is made", mpc::describe(graph_.nodes()[n]),
                             describe(graph_.value(id)));
        }
      }
    }
    return {};
  }

  std::string results() {
    for (const NamedValue& output : graph_.outputs) {
      if (!exists(output.value)) return fmt::format("the output {} has no value", in_quotes(output.name));
    }
    return unique_names(graph_.outputs, "output");
  }

  std::string rates() {
    for (const Node& node : graph_.nodes()) {
      if (node.rate != Rate::per_step) continue;
      for (const ValueId id : node.inputs) {
        if (id.is_valid() && graph_.value(id).rate != Rate::per_step) {
          return fmt::format("{} runs once per step and reads {}, which changes per micro-batch", mpc::describe(node),
                             describe(graph_.value(id)));
        }
      }
    }
    for (const Node& node : graph_.nodes()) {
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        if (!node.outputs[i].is_valid()) continue;
        const Rate rate = graph_.value(node.outputs[i]).rate;
        const auto over = aliased_input(node.op, static_cast<int>(i));
        // An output written over an operand is as lasting as the operand.
        const bool is_over = over && static_cast<size_t>(*over) < node.inputs.size() &&
                             node.inputs[static_cast<size_t>(*over)].is_valid();
        const Rate expected = is_over ? graph_.value(node.inputs[static_cast<size_t>(*over)]).rate : node.rate;
        if (rate != expected)
          return fmt::format("{} has another rate than {} gives it", describe(graph_.value(node.outputs[i])),
                             mpc::describe(node));
      }
    }
    return {};
  }

  std::string aliases() {
    overwritten_by_.assign(graph_.values().size(), NodeId{});
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const Node& node = graph_.nodes()[n];
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        const auto over = aliased_input(node.op, static_cast<int>(i));
        if (!over || !node.outputs[i].is_valid()) continue;
        const std::string violation = overwrite(NodeId(n), node.outputs[i], static_cast<size_t>(*over));
        if (!violation.empty()) return violation;
      }
    }
    return early_readers();
  }

  std::string overwrite(NodeId id, ValueId next, size_t operand) {
    const Node& node = graph_.node(id);
    if (operand >= node.inputs.size() || !node.inputs[operand].is_valid()) {
      return fmt::format("{} writes over operand {}, which is absent", mpc::describe(node), operand);
    }
    const ValueId old = node.inputs[operand];
    const Value& value = graph_.value(old);
    if (value.kind == ValueKind::constant || value.kind == ValueKind::input) {
      return fmt::format("{} writes over {}, which is of kind {}", mpc::describe(node), describe(value),
                         value_kind_name(value.kind));
    }
    if (value.dtype != graph_.value(next).dtype || value.shape != graph_.value(next).shape) {
      return fmt::format("{} writes over {} with another type", mpc::describe(node), describe(value));
    }
    if (overwritten_by_[old.index()].is_valid()) return fmt::format("{} is written over twice", describe(value));
    overwritten_by_[old.index()] = id;
    return {};
  }

  // Every other reader of a value that is written over comes before the node that does it.
  std::string early_readers() const {
    std::vector<int> own_reads(graph_.values().size());
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const Node& node = graph_.nodes()[n];
      for (const ValueId id : node.inputs) {
        if (!id.is_valid() || !overwritten_by_[id.index()].is_valid()) continue;
        const NodeId writer = overwritten_by_[id.index()];
        if (NodeId(n) > writer || (NodeId(n) == writer && ++own_reads[id.index()] > 1)) {
          return fmt::format("{} reads {}, over which {} has written", mpc::describe(node), describe(graph_.value(id)),
                             mpc::describe(graph_.node(writer)));
        }
      }
    }
    return {};
  }

  std::string updates() {
    std::vector<bool> seen(graph_.values().size());
    for (const Update& update : graph_.updates) {
      if (!exists(update.persistent) || !exists(update.next)) return "an update names a value that does not exist";
      const Value& value = graph_.value(update.persistent);
      if (value.kind != ValueKind::parameter && value.kind != ValueKind::state)
        return fmt::format("{} is updated, but of kind {}", describe(value), value_kind_name(value.kind));
      if (seen[update.persistent.index()]) return fmt::format("{} is updated twice", describe(value));
      seen[update.persistent.index()] = true;
      // Follow the in-place writes back: each step goes to an earlier node.
      ValueId at = update.next;
      while (at != update.persistent) {
        const Value& made = graph_.value(at);
        const auto over = made.kind == ValueKind::node ? aliased_input(graph_.node(made.producer).op, made.output_index)
                                                       : std::nullopt;
        if (!over)
          return fmt::format("the update of {} is {}, which is not written over it", describe(value),
                             describe(graph_.value(update.next)));
        at = graph_.node(made.producer).inputs[static_cast<size_t>(*over)];
      }
    }
    return {};
  }

  std::string gradients() {
    std::vector<bool> seen(graph_.values().size());
    for (const ParameterGradient& g : graph_.gradients) {
      if (!exists(g.parameter) || !exists(g.gradient)) return "a gradient names a value that does not exist";
      const Value& parameter = graph_.value(g.parameter);
      const Value& gradient = graph_.value(g.gradient);
      if (parameter.kind != ValueKind::parameter)
        return fmt::format("{} has a gradient, but is no parameter", describe(parameter));
      if (seen[g.parameter.index()]) return fmt::format("{} has two gradients", describe(parameter));
      seen[g.parameter.index()] = true;
      if (gradient.shape != parameter.shape)
        return fmt::format("the gradient of {} has the shape {}", describe(parameter), to_string(gradient.shape));
      if (gradient.rate != Rate::per_step)
        return fmt::format("the gradient of {} is not accumulated over the step", describe(parameter));
      if (gradient.kind != ValueKind::node || graph_.node(gradient.producer).phase == Phase::forward)
        return fmt::format("the gradient of {} is {}, which no gradient node makes", describe(parameter),
                           describe(gradient));
    }
    return {};
  }

  std::string loss() {
    if (!graph_.loss.is_valid()) return {};
    if (!exists(graph_.loss)) return "the loss does not exist";
    const Value& value = graph_.value(graph_.loss);
    if (value.kind != ValueKind::node) return fmt::format("the loss is {}, which no node makes", describe(value));
    const bool is_scalar = value.shape.elements() == 1 && is_float(value.dtype);
    return is_scalar ? ""
                     : fmt::format("the loss is {}, not a floating-point scalar", type_text(value.dtype, value.shape));
  }

  std::string phases() {
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const Node& node = graph_.nodes()[n];
      if (graph_.stage < Stage::training && node.phase != Phase::forward) {
        return fmt::format("{} has the phase {} in a graph that is {}", mpc::describe(node), phase_name(node.phase),
                           stage_name(graph_.stage));
      }
      // A transfer belongs to what it carries.
      if (node.phase != Phase::forward && !node.anchor.is_valid() && node.op != OpKind::Transfer)
        return fmt::format("{} has the phase {} and no anchor", mpc::describe(node), phase_name(node.phase));
      if (node.anchor.is_valid()) {
        const bool is_earlier = node.anchor < NodeId(n);
        if (!is_earlier || graph_.node(node.anchor).phase != Phase::forward)
          return fmt::format("the anchor of {} is no earlier forward node", mpc::describe(node));
      }
      // forward feeds gradients, input gradients feed weight gradients, and those feed updates: never the other way.
      for (const ValueId id : node.inputs) {
        if (!id.is_valid() || !producer(id).is_valid()) continue;
        const Node& from = graph_.node(producer(id));
        if (from.phase > node.phase)
          return fmt::format("{} of phase {} reads from {} of phase {}", mpc::describe(node), phase_name(node.phase),
                             mpc::describe(from), phase_name(from.phase));
      }
    }
    return {};
  }

  std::string transfers() {
    for (const Node& node : graph_.nodes()) {
      if (node.op != OpKind::Transfer) continue;
      if (graph_.stage != Stage::local)
        return fmt::format("{} stands in a graph that is {}", mpc::describe(node), stage_name(graph_.stage));
      if (node.inputs.empty() || node.inputs.size() != node.outputs.size())
        return fmt::format("{} has {} operands and {} outputs", mpc::describe(node), node.inputs.size(),
                           node.outputs.size());
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        if (!node.inputs[i].is_valid() || !node.outputs[i].is_valid())
          return fmt::format("{} carries nothing in place {}", mpc::describe(node), i);
        const Value& from = graph_.value(node.inputs[i]);
        const Value& to = graph_.value(node.outputs[i]);
        if (from.dtype != to.dtype || from.shape != to.shape)
          return fmt::format("{} changes the type of {}", mpc::describe(node), describe(from));
      }
    }
    return {};
  }

  // Before transfers are inserted, a value may be read anywhere: each reader's device gets a copy. What is updated in
  // place must not be one: the copy would be updated instead.
  std::string updates_at_home() const {
    std::vector<DeviceId> home(graph_.values().size());
    for (const Node& node : graph_.nodes()) {
      for (const ValueId id : node.inputs) {
        if (!id.is_valid()) continue;
        const Value& value = graph_.value(id);
        const bool is_persistent = value.kind == ValueKind::parameter || value.kind == ValueKind::state;
        if (is_persistent && !home[id.index()].is_valid()) home[id.index()] = node.device;
        if (value.kind == ValueKind::state && home[id.index()] != node.device)
          return fmt::format("{} is read on devices {} and {}, a state has one", describe(value),
                             home[id.index()].index(), node.device.index());
      }
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        if (!node.outputs[i].is_valid()) continue;
        home[node.outputs[i].index()] = node.device;
        const auto over = aliased_input(node.op, static_cast<int>(i));
        if (!over) continue;
        const ValueId old = node.inputs[static_cast<size_t>(*over)];
        if (home[old.index()] != node.device)
          return fmt::format("{} on device {} writes over {}, which is on device {}", mpc::describe(node),
                             node.device.index(), describe(graph_.value(old)), home[old.index()].index());
      }
    }
    return {};
  }

  std::string devices() {
    std::vector<DeviceId> home(graph_.values().size());  // local: the one device of each state and replaced parameter
    std::vector<bool> is_replaced(graph_.values().size());
    for (const Update& update : graph_.updates) is_replaced[update.persistent.index()] = true;
    for (const Node& node : graph_.nodes()) {
      if (node.device.is_valid() != (graph_.stage >= Stage::placed)) {
        return fmt::format("{} has {} in a graph that is {}", mpc::describe(node),
                           node.device.is_valid() ? "a device" : "no device", stage_name(graph_.stage));
      }
      if (graph_.stage != Stage::local || node.op == OpKind::Transfer) continue;
      for (const ValueId id : node.inputs) {
        if (!id.is_valid()) continue;
        const Value& value = graph_.value(id);
        const bool is_persistent =
            value.kind == ValueKind::state || (value.kind == ValueKind::parameter && is_replaced[id.index()]);
        if (is_persistent && !home[id.index()].is_valid()) home[id.index()] = node.device;
        const DeviceId there = is_persistent                   ? home[id.index()]
                               : value.kind == ValueKind::node ? graph_.node(value.producer).device
                                                               : node.device;
        if (there != node.device)
          return fmt::format("{} on device {} reads {}, which is on device {}", mpc::describe(node),
                             node.device.index(), describe(value), there.index());
      }
    }
    return graph_.stage == Stage::placed ? updates_at_home() : "";
  }

  const Graph& graph_;
  std::vector<NodeId> overwritten_by_;  // by value: the node that writes over it
};

}  // namespace

std::optional<std::string> find_violation(const Graph& graph) {
  std::string violation = Verifier(graph).run();
  if (violation.empty()) return std::nullopt;
  return violation;
}

void verify(const Graph& graph) {
  const auto violation = find_violation(graph);
  MPC_CHECK(!violation, "the " + std::string(stage_name(graph.stage)) + " graph '" + graph.name +
                            "' is wrong: " + violation.value_or(""));
}

}  // namespace mpc
