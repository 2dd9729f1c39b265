#include <iterator>
#include <span>

#include <fmt/format.h>

#include "compiler/plan/text.h"
#include "compiler/plan/text_form.h"

// One line per device, value, node, slice and instruction, so that a plan can be read, compared and edited. What has
// its default is left out. The form of every line is described in docs/plan.md; parse.cpp reads it.

namespace mpc {
namespace {

using plan_text::index_key;
using plan_text::number_json;
using plan_text::quoted;
using plan_text::shape_json;

// One JSON object being written on one line.
class Line {
 public:
  Line& text(std::string_view key, std::string_view value) { return raw(key, quoted(value)); }
  Line& integer(std::string_view key, int64_t value) { return raw(key, fmt::format("{}", value)); }
  Line& number(std::string_view key, double value) { return raw(key, number_json(value)); }
  Line& flag(std::string_view key, bool value) { return raw(key, value ? "true" : "false"); }
  Line& index(std::string_view key, PlanIndex value) { return raw(key, index_text(value)); }
  Line& indices(std::string_view key, const std::vector<PlanIndex>& values) { return list(key, values, index_text); }
  Line& numbers(std::string_view key, const std::vector<double>& values) { return list(key, values, number_json); }
  template <class T, class F>
  Line& list(std::string_view key, const std::vector<T>& items, F text_of) {
    return raw(key, list_text(items, text_of));
  }
  Line& raw(std::string_view key, std::string_view value) {
    fmt::format_to(std::back_inserter(out_), "{}\"{}\":{}", out_.empty() ? "{" : ",", key, value);
    return *this;
  }

  template <class T, class F>
  static std::string list_text(const std::vector<T>& items, F text_of) {
    std::string out = "[";
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += ',';
      out += text_of(items[i]);
    }
    return out + "]";
  }
  static std::string index_text(PlanIndex value) { return value == kNone ? "null" : fmt::format("{}", value); }
  std::string done() const { return out_.empty() ? "{}" : out_ + "}"; }

 private:
  std::string out_;
};

// DeviceId's "none" and kNone are the same number.
PlanIndex index_of(DeviceId device) {
  return device.index();
}

std::string attribute_json(const std::pair<std::string, Attribute>& item) {
  struct Visitor {
    std::string operator()(int64_t v) const { return fmt::format("\"int\",{}", v); }
    std::string operator()(double v) const { return "\"float\"," + number_json(v); }
    std::string operator()(const std::string& v) const { return "\"text\"," + quoted(v); }
    std::string operator()(const std::vector<int64_t>& v) const {
      return "\"ints\"," + Line::list_text(v, [](int64_t i) { return fmt::format("{}", i); });
    }
    std::string operator()(const std::vector<double>& v) const {
      return "\"floats\"," + Line::list_text(v, number_json);
    }
    std::string operator()(const std::vector<std::string>& v) const {
      return "\"texts\"," + Line::list_text(v, quoted);
    }
  };
  return fmt::format("[{},{}]", quoted(item.first), std::visit(Visitor(), item.second));
}

std::string line_of(const PlanDevice& device, size_t id) {
  const MemoryUse& memory = device.memory;
  return Line()
      .integer("id", static_cast<int64_t>(id))
      .text("name", device.name)
      .text("backend", device.backend)
      .text("hardware", device.hardware)
      .integer("threads", device.threads)
      .integer("capacity_bytes", device.capacity_bytes)
      .integer("arena_bytes", device.arena_bytes)
      .integer("parameter_bytes", memory.parameter_bytes)
      .integer("gradient_bytes", memory.gradient_bytes)
      .integer("optimizer_bytes", memory.optimizer_bytes)
      .integer("activation_bytes", memory.activation_bytes)
      .integer("workspace_bytes", memory.workspace_bytes)
      .integer("staging_bytes", memory.staging_bytes)
      .number("flops", device.flops)
      .number("seconds", device.seconds)
      .done();
}

std::string line_of(const PlanLink& link, size_t) {
  return Line()
      .index("from", index_of(link.from))
      .index("to", index_of(link.to))
      .number("bytes_per_second", link.bytes_per_second)
      .number("latency_s", link.latency_s)
      .done();
}

std::string integers_json(const std::vector<int64_t>& integers) {
  return Line::list_text(integers, [](int64_t i) { return fmt::format("{}", i); });
}

std::string part_json(const WeightPart& part) {
  return fmt::format("[{},{},{}]", quoted(part.source), shape_json(part.shape), integers_json(part.perm));
}

std::string recipe_json(const WeightRecipe& recipe) {
  return fmt::format("[{},{},{},{}]", Line::list_text(recipe.parts, part_json), recipe.axis, integers_json(recipe.perm),
                     Line::list_text(recipe.origins, quoted));
}

std::string line_of(const PlanValue& value, size_t id) {
  Line line;
  line.integer("id", static_cast<int64_t>(id)).text("name", value.name).text("dtype", dtype_name(value.dtype));
  line.list("shapes", value.shapes, shape_json).text("kind", plan_value_kind_name(value.kind));
  if (value.per_step) line.flag("per_step", true);
  if (value.is_gradient) line.flag("is_gradient", true);
  if (!value.source.empty()) line.text("source", value.source);
  if (!value.recipe.is_empty()) line.raw("recipe", recipe_json(value.recipe));
  if (!value.literals.empty()) line.list("literals", value.literals, plan_text::literal_json);
  return line.done();
}

std::string line_of(const PlanNode& node, size_t id) {
  Line line;
  line.integer("id", static_cast<int64_t>(id)).text("op", op_name(node.op)).text("name", node.name);
  if (!node.origin.empty()) line.text("origin", node.origin);
  line.text("phase", plan_phase_name(node.phase)).index("device", index_of(node.device));
  if (node.per_step) line.flag("per_step", true);
  line.indices("inputs", node.inputs).indices("outputs", node.outputs);
  line.list("attributes", node.attributes,
            [](const Attributes& attributes) { return Line::list_text(attributes.items(), attribute_json); });
  line.numbers("flops", node.flops).numbers("seconds", node.seconds);
  if (node.workspace_bytes != 0) line.integer("workspace_bytes", node.workspace_bytes);
  return line.done();
}

std::string line_of(const PlanTransfer& transfer, size_t id) {
  Line line;
  line.integer("id", static_cast<int64_t>(id)).text("name", transfer.name);
  line.index("from", index_of(transfer.from)).index("to", index_of(transfer.to));
  line.text("phase", plan_phase_name(transfer.phase));
  if (transfer.per_step) line.flag("per_step", true);
  line.indices("sources", transfer.sources).indices("destinations", transfer.destinations);
  return line.numbers("seconds", transfer.seconds).done();
}

std::string line_of(const PlanSlice& slice, size_t id) {
  Line line;
  line.integer("id", static_cast<int64_t>(id)).index("value", slice.value);
  if (slice.microbatch != kPerStep) line.integer("microbatch", slice.microbatch);
  line.index("device", index_of(slice.device)).integer("offset", slice.offset).integer("bytes", slice.bytes);
  return line.done();
}

std::string line_of(const PlanQueue& queue, size_t id) {
  Line line;
  line.integer("id", static_cast<int64_t>(id)).text("kind", queue_kind_name(queue.kind));
  line.index("device", index_of(queue.device));
  if (queue.peer.is_valid()) line.index("peer", index_of(queue.peer));
  return line.done();
}

std::string line_of(const Instruction& instruction, size_t) {
  Line line;
  line.text("do", action_name(instruction.action)).index("queue", instruction.queue);
  line.index(index_key(instruction.action), instruction.index);
  if (instruction.microbatch != kPerStep) line.integer("microbatch", instruction.microbatch);
  if (!instruction.reads.empty()) line.indices("reads", instruction.reads);
  if (!instruction.writes.empty()) line.indices("writes", instruction.writes);
  if (instruction.workspace != kNone) line.index("workspace", instruction.workspace);
  return line.number("start_s", instruction.start_s).done();
}

std::string line_of(const PlanInput& input, size_t id) {
  Line line;
  line.integer("id", static_cast<int64_t>(id)).text("name", input.name).index("value", input.value);
  line.flag("is_batched", input.is_batched).text("role", input_role_name(input.role));
  if (input.ignored_label) line.integer("ignored_label", *input.ignored_label);
  return line.done();
}

std::string line_of(const PlanOutput& output, size_t id) {
  Line line;
  line.integer("id", static_cast<int64_t>(id)).text("name", output.name).index("value", output.value);
  return line.text("combine", combine_name(output.combine)).done();
}

std::string line_of(const PlanUpdate& update, size_t) {
  return Line().index("persistent", update.persistent).index("next", update.next).done();
}

std::string line_of(const PlanGradient& gradient, size_t) {
  return Line().index("parameter", gradient.parameter).index("gradient", gradient.gradient).done();
}

std::string line_of(const std::string& text, size_t) {
  return quoted(text);
}

template <class T>
void append_table(std::string& out, std::string_view key, const std::vector<T>& rows) {
  fmt::format_to(std::back_inserter(out), ",\n\"{}\":[", key);
  for (size_t i = 0; i < rows.size(); ++i) {
    out += i == 0 ? "\n" : ",\n";
    out += line_of(rows[i], i);
  }
  out += rows.empty() ? "]" : "\n]";
}

std::string model_json(const PlanModel& model) {
  const auto shape_of = [](const std::pair<std::string, std::vector<int64_t>>& input) {
    return fmt::format("[{},{}]", quoted(input.first),
                       Line::list_text(input.second, [](int64_t dim) { return fmt::format("{}", dim); }));
  };
  return Line()
      .text("path", model.path)
      .text("sha256", model.sha256)
      .list("input_shapes", model.input_shapes, shape_of)
      .done();
}

void append_head(std::string& out, const Plan& plan) {
  const auto append = [&](std::string_view key, std::string_view value) {
    fmt::format_to(std::back_inserter(out), ",\n\"{}\":{}", key, value);
  };
  fmt::format_to(std::back_inserter(out), "{{\"format\":\"{}\",\n\"version\":{}", plan_text::kFormat, plan.version);
  append("model", model_json(plan.model));
  append("is_training", plan.is_training ? "true" : "false");
  append("schedule", quoted(plan.schedule));
  append("objective", quoted(plan.objective));
  append("precision", quoted(plan.precision));
  append("microbatches", fmt::format("{}", plan.microbatches));
  append("batch", fmt::format("{}", plan.batch));
  append("microbatch_rows", fmt::format("{}", plan.microbatch_rows));
  append("has_tail", plan.has_tail ? "true" : "false");
  append("event_count", fmt::format("{}", plan.event_count));
  append("loss", Line::index_text(plan.loss));
  append("step_seconds", number_json(plan.step_seconds));
  append("bubble", number_json(plan.bubble));
  append("objective_value", number_json(plan.objective_value));
  append("objective_lower_bound", number_json(plan.objective_lower_bound));
  append("one_device_seconds", number_json(plan.one_device_seconds));
}

}  // namespace

std::string print_plan(const Plan& plan) {
  std::string out;
  append_head(out, plan);
  append_table(out, "warnings", plan.warnings);
  append_table(out, "notes", plan.notes);
  append_table(out, "devices", plan.devices);
  append_table(out, "links", plan.links);
  append_table(out, "inputs", plan.inputs);
  append_table(out, "outputs", plan.outputs);
  append_table(out, "updates", plan.updates);
  append_table(out, "gradients", plan.gradients);
  append_table(out, "values", plan.values);
  append_table(out, "nodes", plan.nodes);
  append_table(out, "transfers", plan.transfers);
  append_table(out, "slices", plan.slices);
  append_table(out, "queues", plan.queues);
  append_table(out, "instructions", plan.instructions);
  return out + "\n}\n";
}

}  // namespace mpc
