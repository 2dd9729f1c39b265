#include <algorithm>
#include <set>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "compiler/base/checked.h"
#include "compiler/plan/check_parts.h"
#include "compiler/plan/host_memory.h"

namespace mpc::plan_check {
namespace {

class Tables {
 public:
  explicit Tables(const Plan& plan) : plan_(plan) {
    facts_.replaced_by.assign(plan.values.size(), kNone);
    facts_.replaces.assign(plan.values.size(), kNone);
    facts_.first_of.assign(plan.values.size(), kNone);
    facts_.last_of.assign(plan.values.size(), kNone);
    facts_.is_running.assign(plan.values.size(), false);
    facts_.last_running_of.assign(plan.values.size(), kNone);
    is_made_.assign(plan.values.size(), false);
    is_used_.assign(plan.values.size(), false);
    for (const PlanLink& link : plan.links) links_.emplace(link.from, link.to);
  }

  Facts check() && {
    check_names(plan_.values, "value");
    check_names(plan_.nodes, "node");
    check_names(plan_.transfers, "transfer");
    check_names(plan_.inputs, "input");
    check_names(plan_.outputs, "output");
    for (PlanIndex i = 0; i < plan_.values.size(); ++i) check_value(i);
    for (PlanIndex i = 0; i < plan_.nodes.size(); ++i) check_node(i);
    for (PlanIndex i = 0; i < plan_.transfers.size(); ++i) check_transfer(i);
    check_inputs();
    check_outputs();
    find_chains();
    // What reads a running sum is known only after all nodes were seen.
    for (PlanIndex i = 0; i < plan_.nodes.size(); ++i) check_reads_of_running(i);
    check_updates();
    check_gradients();
    check_makers();
    return std::move(facts_);
  }

 private:
  template <class T>
  static void check_names(const std::vector<T>& rows, std::string_view table) {
    std::unordered_set<std::string_view> names;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].name.empty()) refuse(fmt::format("{} {}", table, i), "has no name");
      if (!names.insert(rows[i].name).second)
        refuse("plan", fmt::format("two {}s are named '{}'", table, rows[i].name));
    }
  }

  bool is_value(PlanIndex value) const { return value < plan_.values.size(); }
  // Rows that state something per variant. A per-step row is always variant 0 and may state it once.
  bool is_per_variant(size_t count, bool per_step) const {
    return count == static_cast<size_t>(plan_.variant_count()) || (per_step && count == 1);
  }
  const Shape& shape_of(PlanIndex value, size_t variant) const {
    const auto& shapes = plan_.values[value].shapes;
    return shapes[shapes.size() > 1 ? variant : 0];
  }
  bool same_type(PlanIndex a, PlanIndex b) const {
    if (plan_.values[a].dtype != plan_.values[b].dtype) return false;
    for (size_t v = 0; v < static_cast<size_t>(plan_.variant_count()); ++v) {
      if (shape_of(a, v) != shape_of(b, v)) return false;
    }
    return true;
  }

  void check_value(PlanIndex index) const {
    const PlanValue& value = plan_.values[index];
    const std::string where = value_text(plan_, index);
    if (value.shapes.size() != 1 && !is_per_variant(value.shapes.size(), false)) {
      refuse(where, fmt::format("has {} shapes, the plan has {} variants", value.shapes.size(), plan_.variant_count()));
    }
    for (const Shape& shape : value.shapes) {
      if (!checked_shape(shape.dims(), value.dtype))
        refuse(where, fmt::format("shape {} is too large", to_string(shape)));
    }
    const bool is_persistent = value.kind == PlanValueKind::parameter || value.kind == PlanValueKind::state ||
                               value.kind == PlanValueKind::constant;
    if (is_persistent && !value.per_step) refuse(where, "holds from step to step, so it must be per_step");
    if (value.is_gradient &&
        (!value.per_step || (value.kind != PlanValueKind::temporary && value.kind != PlanValueKind::state))) {
      refuse(where, "is_gradient is for accumulated gradients: per_step temporaries and states");
    }
    if ((value.kind == PlanValueKind::parameter) == value.source.empty()) {
      refuse(where, "a parameter names its source in the model, and nothing else does");
    }
    if (!value.recipe.is_empty()) check_recipe(index, where);
    check_literals(value, where);
    const bool is_one_shape = value.shapes.size() == 1 || value.shapes[0] == value.shapes[1];
    if (value.per_step && value.literals.size() < 2 && !is_one_shape) refuse(where, "a per_step value has one shape");
  }

  // What is made of several tensors, or in another order, cannot be given back to the model.
  void check_recipe(PlanIndex index, const std::string& where) const {
    const PlanValue& value = plan_.values[index];
    if (value.kind != PlanValueKind::parameter) refuse(where, "has a recipe and is no parameter");
    if (value.source != value.recipe.parts.front().source) refuse(where, "its source is not the first of its recipe");
    const std::string problem = find_problem(value.recipe, value.dtype, value.shapes.front());
    if (!problem.empty()) refuse(where, "in its recipe " + problem);
    for (const PlanUpdate& update : plan_.updates) {
      if (update.persistent == index) refuse(where, "is replaced in every step, so it cannot have a recipe");
    }
  }

  static void check_literals(const PlanValue& value, const std::string& where) {
    const size_t count = value.literals.size();
    const bool fits = value.kind == PlanValueKind::constant ? count == 1 || (count == 2 && value.shapes.size() == 2)
                      : value.kind == PlanValueKind::state  ? count == 1
                                                            : count == 0;
    if (!fits) refuse(where, fmt::format("a {} does not have {} literals", plan_value_kind_name(value.kind), count));
    for (size_t i = 0; i < count; ++i) {
      const Literal& literal = value.literals[i];
      if (literal.dtype() != value.dtype || literal.shape() != value.shapes[i] || literal.stored().data() == nullptr) {
        const std::string found = type_text(literal.dtype(), literal.shape());
        // An empty tensor stores nothing, which is all it needs.
        if (found == type_text(value.dtype, value.shapes[i]) && literal.shape().elements() == 0) continue;
        refuse(where, fmt::format("literal {} is {}, expected {}", i, found, type_text(value.dtype, value.shapes[i])));
      }
    }
  }

  void check_node(PlanIndex index) {
    const PlanNode& node = plan_.nodes[index];
    const std::string where = node_text(plan_, index);
    if (static_cast<int>(node.op) >= kOpCount || node.op == OpKind::Transfer) {
      refuse(where, "has an operator that no kernel carries out");
    }
    if (node.device.index() >= plan_.devices.size()) {
      refuse(where, fmt::format("is on device {}, the plan has {}", node.device.index(), plan_.devices.size()));
    }
    if (is_host_memory(plan_.devices[node.device.index()])) {
      refuse(where, fmt::format("is on {}, which is memory and runs nothing", device_text(plan_, node.device)));
    }
    if (!is_per_variant(node.attributes.size(), node.per_step) || !is_per_variant(node.flops.size(), node.per_step) ||
        !is_per_variant(node.seconds.size(), node.per_step)) {
      refuse(where, fmt::format("states attributes, flops and seconds {}, {} and {} times, the plan has {} variants",
                                node.attributes.size(), node.flops.size(), node.seconds.size(), plan_.variant_count()));
    }
    if (!std::ranges::all_of(node.flops, is_cost) || !std::ranges::all_of(node.seconds, is_cost)) {
      refuse(where, "its flops and seconds must be finite and not negative");
    }
    if (node.workspace_bytes < 0 || node.workspace_bytes >= kMaxTensorBytes) {
      refuse(where, fmt::format("workspace_bytes is {}, must be in [0, {})", node.workspace_bytes, kMaxTensorBytes));
    }
    check_operands(node, where);
  }

  void check_operands(const PlanNode& node, const std::string& where) {
    for (const PlanIndex input : node.inputs) {
      if (input == kNone) continue;
      if (!is_value(input)) refuse(where, fmt::format("reads value {}, the plan has {}", input, plan_.values.size()));
      if (node.per_step && !plan_.values[input].per_step) {
        refuse(where, fmt::format("runs once per step, but reads {} of a micro-batch", value_text(plan_, input)));
      }
      if (node.per_step && plan_.values[input].literals.size() > 1) {
        refuse(where,
               fmt::format("runs once per step, but {} differs between micro-batches", value_text(plan_, input)));
      }
      is_used_[input] = true;
    }
    bool makes_something = false;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] == kNone) continue;
      makes_something = true;
      make(node.outputs[i], where);
      check_output(node, i, where);
    }
    if (!makes_something) refuse(where, "makes nothing");
  }

  void check_output(const PlanNode& node, size_t position, const std::string& where) {
    const PlanIndex output = node.outputs[position];
    const bool per_step = plan_.values[output].per_step;
    const auto aliased = aliased_input(node.op, static_cast<int>(position));
    if (!aliased) {
      if (per_step == node.per_step) return;
      refuse(where, fmt::format("{} is made {}, the node runs {}", value_text(plan_, output),
                                per_step ? "once per step" : "per micro-batch",
                                node.per_step ? "once per step" : "per micro-batch"));
    }
    const auto operand = static_cast<size_t>(*aliased);
    if (operand >= node.inputs.size() || node.inputs[operand] == kNone) {
      refuse(where, fmt::format("{} is written over operand {}, which is absent", value_text(plan_, output), *aliased));
    }
    const PlanIndex old = node.inputs[operand];
    const PlanValueKind kind = plan_.values[old].kind;
    if (kind == PlanValueKind::constant || kind == PlanValueKind::input) {
      refuse(where, fmt::format("writes over {}, which never changes", value_text(plan_, old)));
    }
    if (!per_step || !plan_.values[old].per_step || !same_type(old, output)) {
      refuse(where, fmt::format("{} is written over {}: both must be per_step and of one type",
                                value_text(plan_, output), value_text(plan_, old)));
    }
    if (facts_.replaced_by[old] != kNone)
      refuse(where, fmt::format("{} is updated in place twice", value_text(plan_, old)));
    facts_.replaced_by[old] = output;
    facts_.replaces[output] = old;
    facts_.is_running[output] = !node.per_step;
  }

  void make(PlanIndex value, const std::string& where) {
    if (!is_value(value)) refuse(where, fmt::format("makes value {}, the plan has {}", value, plan_.values.size()));
    if (plan_.values[value].kind != PlanValueKind::temporary) {
      refuse(where, fmt::format("makes {}, which is a {}", value_text(plan_, value),
                                plan_value_kind_name(plan_.values[value].kind)));
    }
    if (is_made_[value]) refuse(where, fmt::format("makes {}, which is made twice", value_text(plan_, value)));
    is_made_[value] = true;
  }

  void check_transfer(PlanIndex index) {
    const PlanTransfer& transfer = plan_.transfers[index];
    const std::string where = transfer_text(plan_, index);
    if (transfer.from.index() >= plan_.devices.size() || transfer.to.index() >= plan_.devices.size() ||
        transfer.from == transfer.to) {
      refuse(where, fmt::format("leads from device {} to {}, must join two of {} devices", transfer.from.index(),
                                transfer.to.index(), plan_.devices.size()));
    }
    if (!links_.contains({transfer.from, transfer.to})) refuse(where, "there is no link between its devices");
    if (transfer.sources.empty() || transfer.sources.size() != transfer.destinations.size()) {
      refuse(where, fmt::format("copies {} values into {}", transfer.sources.size(), transfer.destinations.size()));
    }
    if (!is_per_variant(transfer.seconds.size(), transfer.per_step) ||
        !std::ranges::all_of(transfer.seconds, is_cost)) {
      refuse(where, "its seconds must be given per variant, finite and not negative");
    }
    for (size_t i = 0; i < transfer.sources.size(); ++i) {
      const PlanIndex source = transfer.sources[i];
      const PlanIndex destination = transfer.destinations[i];
      if (!is_value(source)) refuse(where, fmt::format("reads value {}, the plan has {}", source, plan_.values.size()));
      make(destination, where);
      if (!same_type(source, destination) || plan_.values[source].literals.size() > 1) {
        refuse(where, fmt::format("{} and its copy differ in type", value_text(plan_, source)));
      }
      if (plan_.values[source].per_step != transfer.per_step ||
          plan_.values[destination].per_step != transfer.per_step) {
        refuse(where, fmt::format("{}, its copy and the transfer differ in per_step", value_text(plan_, source)));
      }
      is_used_[source] = true;
    }
  }

  void check_inputs() {
    std::vector<bool> is_listed(plan_.values.size(), false);
    for (const PlanInput& input : plan_.inputs) {
      const std::string where = fmt::format("input '{}'", input.name);
      if (!is_value(input.value) || plan_.values[input.value].kind != PlanValueKind::input || is_listed[input.value]) {
        refuse(where, "must name a value of kind input that no other input names");
      }
      is_listed[input.value] = true;
      const PlanValue& value = plan_.values[input.value];
      if (input.ignored_label && input.role != PlanInput::Role::labels) refuse(where, "has no labels to ignore");
      if (!input.is_supplied_by_caller()) {
        if (!value.per_step || value.shapes[0].elements() != 1) refuse(where, "its role needs one number per step");
        continue;
      }
      if (!input.is_batched || plan_.batch == 0) continue;
      for (int variant = 0; variant < plan_.variant_count(); ++variant) {
        const Shape& shape = shape_of(input.value, static_cast<size_t>(variant));
        const int64_t rows = plan_.rows_of(variant == 1 ? plan_.microbatches - 1 : 0);
        if (shape.rank() > 0 && shape[0] == rows) continue;
        refuse(where, fmt::format("has shape {}, a micro-batch has {} rows", to_string(shape), rows));
      }
      if (value.per_step && plan_.microbatches > 1) refuse(where, "cannot be batched and per_step");
    }
    for (PlanIndex i = 0; i < plan_.values.size(); ++i) {
      if (plan_.values[i].kind == PlanValueKind::input && !is_listed[i])
        refuse(value_text(plan_, i), "no input names it");
    }
  }

  void check_outputs() {
    for (const PlanOutput& output : plan_.outputs) {
      const std::string where = fmt::format("output '{}'", output.name);
      if (!is_value(output.value))
        refuse(where, fmt::format("names value {}, the plan has {}", output.value, plan_.values.size()));
      is_used_[output.value] = true;
      const PlanValue& value = plan_.values[output.value];
      if (value.literals.size() > 1) refuse(where, "names a constant that differs between micro-batches");
      if (value.per_step || plan_.microbatches == 1) continue;
      const Shape& first = shape_of(output.value, 0);
      const Shape& last = shape_of(output.value, static_cast<size_t>(plan_.variant_count() - 1));
      const bool is_concatenated = output.combine == PlanOutput::Combine::concatenate;
      const bool fits = is_concatenated ? first.rank() > 0 && first.rank() == last.rank() &&
                                              std::equal(first.begin() + 1, first.end(), last.begin() + 1)
                                        : output.combine == PlanOutput::Combine::last || first == last;
      if (!fits) {
        refuse(where, fmt::format("micro-batches of shapes {} and {} cannot be combined by {}", to_string(first),
                                  to_string(last), combine_name(output.combine)));
      }
    }
    if (plan_.loss == kNone) return;
    if (plan_.loss >= plan_.outputs.size())
      refuse("plan", fmt::format("loss is output {}, the plan has {}", plan_.loss, plan_.outputs.size()));
    const PlanIndex loss = plan_.outputs[plan_.loss].value;
    if (shape_of(loss, 0).elements() != 1 || !is_float(plan_.values[loss].dtype))
      refuse("plan", "the loss must be one float");
  }

  // Chains of in-place updates: each value is replaced at most once and replaces at most one, so what is reached from
  // no first value is a cycle.
  void find_chains() {
    for (PlanIndex first = 0; first < plan_.values.size(); ++first) {
      if (facts_.replaces[first] != kNone) continue;
      std::vector<PlanIndex> chain;
      for (PlanIndex v = first; v != kNone; v = facts_.replaced_by[v]) chain.push_back(v);
      for (size_t i = chain.size(); i-- > 0;) {
        facts_.first_of[chain[i]] = first;
        facts_.last_of[chain[i]] = chain.back();
        if (i + 1 == chain.size() || !facts_.is_running[chain[i + 1]]) continue;
        const PlanIndex beyond = facts_.last_running_of[chain[i + 1]];
        facts_.last_running_of[chain[i]] = beyond == kNone ? chain[i + 1] : beyond;
      }
    }
    for (PlanIndex v = 0; v < plan_.values.size(); ++v) {
      if (facts_.first_of[v] == kNone) refuse(value_text(plan_, v), "replaces itself through in-place updates");
    }
  }

  // A running value has its meaning only once all micro-batches were added; before, only the next in-place update of
  // the same micro-batch may read it.
  void check_reads_of_running(PlanIndex index) const {
    const PlanNode& node = plan_.nodes[index];
    if (node.per_step) return;
    for (size_t operand = 0; operand < node.inputs.size(); ++operand) {
      const PlanIndex input = node.inputs[operand];
      if (input == kNone || !facts_.is_running[input]) continue;
      bool is_next_update = false;
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        const auto aliased = aliased_input(node.op, static_cast<int>(i));
        is_next_update |= aliased && static_cast<size_t>(*aliased) == operand && node.outputs[i] != kNone;
      }
      if (!is_next_update) {
        refuse(node_text(plan_, index),
               fmt::format("reads {} per micro-batch, which is complete only after the last one",
                           value_text(plan_, input)));
      }
    }
  }

  void check_updates() const {
    std::vector<bool> is_updated(plan_.values.size(), false);
    for (const PlanUpdate& update : plan_.updates) {
      if (!is_value(update.persistent) || !is_value(update.next))
        refuse("plan", "an update names a value that does not exist");
      const std::string where = value_text(plan_, update.persistent);
      const PlanValueKind kind = plan_.values[update.persistent].kind;
      if ((kind != PlanValueKind::parameter && kind != PlanValueKind::state) || is_updated[update.persistent]) {
        refuse(where, "only a parameter or a state is updated, and only once");
      }
      if (update.next == update.persistent || facts_.last_of[update.persistent] != update.next) {
        refuse(where, fmt::format("{} is not the last value written over it", value_text(plan_, update.next)));
      }
      is_updated[update.persistent] = true;
    }
    for (PlanIndex v = 0; v < plan_.values.size(); ++v) {
      const PlanValue& value = plan_.values[v];
      if (value.kind != PlanValueKind::parameter && value.kind != PlanValueKind::state) continue;
      if (facts_.replaced_by[v] != kNone && !is_updated[v] && !value.is_gradient) {
        refuse(value_text(plan_, v), "is overwritten, but no update says by what");
      }
    }
  }

  void check_gradients() const {
    std::vector<bool> has_gradient(plan_.values.size(), false);
    for (const PlanGradient& pair : plan_.gradients) {
      if (!is_value(pair.parameter) || !is_value(pair.gradient))
        refuse("plan", "a gradient names a value that does not exist");
      const std::string where = value_text(plan_, pair.parameter);
      const PlanValue& gradient = plan_.values[pair.gradient];
      if (plan_.values[pair.parameter].kind != PlanValueKind::parameter || has_gradient[pair.parameter]) {
        refuse(where, "only a parameter has a gradient, and only one");
      }
      if (!gradient.per_step || !is_made_[pair.gradient] || facts_.replaced_by[pair.gradient] != kNone ||
          gradient.shapes[0] != plan_.values[pair.parameter].shapes[0]) {
        refuse(where, fmt::format("{} is not an accumulated gradient of its shape", value_text(plan_, pair.gradient)));
      }
      has_gradient[pair.parameter] = true;
    }
  }

  void check_makers() const {
    for (PlanIndex v = 0; v < plan_.values.size(); ++v) {
      const PlanValue& value = plan_.values[v];
      // The buffer of an accumulated gradient may start without a maker: the first micro-batch stores.
      const bool needs_maker =
          value.kind == PlanValueKind::temporary && !(value.is_gradient && facts_.replaced_by[v] != kNone);
      if (needs_maker && !is_made_[v]) refuse(value_text(plan_, v), "no node and no transfer makes it");
    }
    for (PlanIndex i = 0; i < plan_.transfers.size(); ++i) {
      for (const PlanIndex copy : plan_.transfers[i].destinations) {
        if (!is_used_[copy]) refuse(transfer_text(plan_, i), fmt::format("nothing uses {}", value_text(plan_, copy)));
      }
    }
  }

  const Plan& plan_;
  Facts facts_;
  std::vector<bool> is_made_;
  std::vector<bool> is_used_;
  std::set<std::pair<DeviceId, DeviceId>> links_;
};

}  // namespace

Facts check_tables(const Plan& plan) {
  return Tables(plan).check();
}

}  // namespace mpc::plan_check
