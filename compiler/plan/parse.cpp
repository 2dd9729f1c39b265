#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/json.h"
#include "compiler/plan/text.h"
#include "compiler/plan/text_form.h"

// Reads what print.cpp writes. The text is hostile: every member has its type and range checked, unknown members are
// refused, and members that may be left out are those that print.cpp leaves out.

namespace mpc {
namespace {

constexpr int64_t kMostIndex = int64_t{kNone} - 1;
constexpr int64_t kMostInt32 = std::numeric_limits<int32_t>::max();

template <class T, class F>
std::vector<T> parse_list(const JsonView& view, F parse_element) {
  std::vector<T> items;
  const int64_t count = view.count();
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) items.push_back(parse_element(view.element(i)));
  return items;
}

PlanIndex parse_index(const JsonView& view) {
  return view.is_null() ? kNone : static_cast<PlanIndex>(view.integer(0, kMostIndex));
}

std::vector<PlanIndex> parse_indices(const JsonView& view) {
  return parse_list<PlanIndex>(view, parse_index);
}

std::vector<PlanIndex> parse_optional_indices(const JsonView& row, std::string_view key) {
  const auto found = row.find(key);
  return found ? parse_indices(*found) : std::vector<PlanIndex>{};
}

std::vector<double> parse_numbers(const JsonView& view) {
  return parse_list<double>(view, plan_text::parse_number_json);
}

double number_at(const JsonView& row, std::string_view key) {
  return plan_text::parse_number_json(row.at(key));
}

DeviceId device_at(const JsonView& row, std::string_view key) {
  return DeviceId(static_cast<uint32_t>(row.at(key).integer(0, kMostIndex)));
}

bool flag_at(const JsonView& row, std::string_view key) {
  const auto found = row.find(key);
  return found && found->flag();
}

std::string text_at(const JsonView& row, std::string_view key) {
  const auto found = row.find(key);
  return found ? found->text() : std::string();
}

int32_t microbatch_of(const JsonView& row) {
  const auto found = row.find("microbatch");
  return found ? static_cast<int32_t>(found->integer(0, kMostInt32)) : kPerStep;
}

// The enumerator of that name; enumerations count from 0 and end before `count`.
template <class Enum>
Enum parse_name(const JsonView& view, int count, std::string_view (*name_of)(Enum)) {
  for (int i = 0; i < count; ++i) {
    if (name_of(static_cast<Enum>(i)) == view.text()) return static_cast<Enum>(i);
  }
  std::string known;
  for (int i = 0; i < count; ++i) known += fmt::format("{}{}", i == 0 ? "" : ", ", name_of(static_cast<Enum>(i)));
  view.fail(fmt::format("is \"{}\", must be one of {}", view.text(), known));
}

constexpr int kActionCount = 7;
constexpr int kPhaseCount = 4;
constexpr int kQueueKindCount = 3;
constexpr int kValueKindCount = 5;
constexpr int kRoleCount = 5;
constexpr int kCombineCount = 3;

PlanDevice parse_device(const JsonView& row) {
  row.require_keys({"id", "name", "backend", "hardware", "threads", "capacity_bytes", "arena_bytes", "parameter_bytes",
                    "gradient_bytes", "optimizer_bytes", "activation_bytes", "workspace_bytes", "staging_bytes",
                    "flops", "seconds"});
  PlanDevice device;
  device.name = row.at("name").text();
  device.backend = row.at("backend").text();
  device.hardware = row.at("hardware").text();
  device.threads = static_cast<int>(row.at("threads").integer(0, kMostInt32));
  device.capacity_bytes = row.at("capacity_bytes").integer();
  device.arena_bytes = row.at("arena_bytes").integer();
  device.memory.parameter_bytes = row.at("parameter_bytes").integer();
  device.memory.gradient_bytes = row.at("gradient_bytes").integer();
  device.memory.optimizer_bytes = row.at("optimizer_bytes").integer();
  device.memory.activation_bytes = row.at("activation_bytes").integer();
  device.memory.workspace_bytes = row.at("workspace_bytes").integer();
  device.memory.staging_bytes = row.at("staging_bytes").integer();
  device.flops = number_at(row, "flops");
  device.seconds = number_at(row, "seconds");
  return device;
}

PlanLink parse_link(const JsonView& row) {
  row.require_keys({"from", "to", "bytes_per_second", "latency_s"});
  return {device_at(row, "from"), device_at(row, "to"), number_at(row, "bytes_per_second"),
          number_at(row, "latency_s")};
}

std::vector<int64_t> parse_integers(const JsonView& view) {
  return parse_list<int64_t>(view, [](const JsonView& item) { return item.integer(); });
}

/// [[[source, shape, perm], ...], axis, perm, origins]
WeightRecipe parse_recipe(const JsonView& view, DType dtype) {
  if (view.count() != 4) view.fail("must be [parts, axis, perm, origins]");
  WeightRecipe recipe;
  recipe.parts = parse_list<WeightPart>(view.element(0), [&](const JsonView& part) {
    if (part.count() != 3) part.fail("must be [source, shape, perm]");
    return WeightPart{part.element(0).text(), plan_text::parse_shape_json(part.element(1), dtype),
                      parse_integers(part.element(2))};
  });
  if (recipe.is_empty()) view.fail("has no parts");
  recipe.axis = view.element(1).integer();
  recipe.perm = parse_integers(view.element(2));
  recipe.origins = parse_list<std::string>(view.element(3), [](const JsonView& origin) { return origin.text(); });
  return recipe;
}

PlanValue parse_value(const JsonView& row) {
  row.require_keys(
      {"id", "name", "dtype", "shapes", "kind", "per_step", "is_gradient", "source", "recipe", "literals"});
  PlanValue value;
  value.name = row.at("name").text();
  value.dtype = plan_text::parse_dtype_json(row.at("dtype"));
  value.shapes = parse_list<Shape>(
      row.at("shapes"), [&](const JsonView& view) { return plan_text::parse_shape_json(view, value.dtype); });
  value.kind = parse_name(row.at("kind"), kValueKindCount, plan_value_kind_name);
  value.per_step = flag_at(row, "per_step");
  value.is_gradient = flag_at(row, "is_gradient");
  value.source = text_at(row, "source");
  if (const auto recipe = row.find("recipe")) value.recipe = parse_recipe(*recipe, value.dtype);
  if (const auto literals = row.find("literals"))
    value.literals = parse_list<Literal>(*literals, plan_text::parse_literal_json);
  return value;
}

Attribute parse_attribute(const JsonView& type, const JsonView& view) {
  const auto text_of = [](const JsonView& item) { return item.text(); };
  const auto integer_of = [](const JsonView& item) { return item.integer(); };
  if (type.text() == "int") return view.integer();
  if (type.text() == "float") return plan_text::parse_number_json(view);
  if (type.text() == "text") return view.text();
  if (type.text() == "ints") return parse_list<int64_t>(view, integer_of);
  if (type.text() == "floats") return parse_numbers(view);
  if (type.text() == "texts") return parse_list<std::string>(view, text_of);
  type.fail(fmt::format("is \"{}\", must be int, float, text, ints, floats or texts", type.text()));
}

Attributes parse_attributes(const JsonView& view) {
  Attributes attributes;
  const int64_t count = view.count();
  for (int64_t i = 0; i < count; ++i) {
    const JsonView item = view.element(i);
    if (item.count() != 3) item.fail("must be [name, type, value]");
    const std::string& name = item.element(0).text();
    if (attributes.has(name)) item.fail(fmt::format("attribute \"{}\" stands twice", name));
    attributes.set(name, parse_attribute(item.element(1), item.element(2)));
  }
  return attributes;
}

PlanNode parse_node(const JsonView& row) {
  row.require_keys({"id", "op", "name", "origin", "phase", "device", "per_step", "inputs", "outputs", "attributes",
                    "flops", "seconds", "workspace_bytes"});
  PlanNode node;
  const JsonView op = row.at("op");
  const auto kind = find_op(op.text());
  if (!kind) op.fail(fmt::format("is \"{}\", which is no operator of this mpc", op.text()));
  node.op = *kind;
  node.name = row.at("name").text();
  node.origin = text_at(row, "origin");
  node.phase = parse_name(row.at("phase"), kPhaseCount, plan_phase_name);
  node.device = device_at(row, "device");
  node.per_step = flag_at(row, "per_step");
  node.inputs = parse_indices(row.at("inputs"));
  node.outputs = parse_indices(row.at("outputs"));
  node.attributes = parse_list<Attributes>(row.at("attributes"), parse_attributes);
  node.flops = parse_numbers(row.at("flops"));
  node.seconds = parse_numbers(row.at("seconds"));
  if (const auto bytes = row.find("workspace_bytes")) node.workspace_bytes = bytes->integer();
  return node;
}

PlanTransfer parse_transfer(const JsonView& row) {
  row.require_keys({"id", "name", "from", "to", "phase", "per_step", "sources", "destinations", "seconds"});
  PlanTransfer transfer;
  transfer.name = row.at("name").text();
  transfer.from = device_at(row, "from");
  transfer.to = device_at(row, "to");
  transfer.phase = parse_name(row.at("phase"), kPhaseCount, plan_phase_name);
  transfer.per_step = flag_at(row, "per_step");
  transfer.sources = parse_indices(row.at("sources"));
  transfer.destinations = parse_indices(row.at("destinations"));
  transfer.seconds = parse_numbers(row.at("seconds"));
  return transfer;
}

PlanSlice parse_slice(const JsonView& row) {
  row.require_keys({"id", "value", "microbatch", "device", "offset", "bytes"});
  return {parse_index(row.at("value")), microbatch_of(row), device_at(row, "device"), row.at("offset").integer(),
          row.at("bytes").integer()};
}

PlanQueue parse_queue(const JsonView& row) {
  row.require_keys({"id", "kind", "device", "peer"});
  PlanQueue queue;
  queue.kind = parse_name(row.at("kind"), kQueueKindCount, queue_kind_name);
  queue.device = device_at(row, "device");
  if (row.find("peer")) queue.peer = device_at(row, "peer");
  return queue;
}

Instruction parse_instruction(const JsonView& row) {
  Instruction instruction;
  instruction.action = parse_name(row.at("do"), kActionCount, action_name);
  const std::string_view key = plan_text::index_key(instruction.action);
  row.require_keys({"do", "queue", key, "microbatch", "reads", "writes", "workspace", "start_s"});
  instruction.queue = static_cast<PlanIndex>(row.at("queue").integer(0, kMostIndex));
  instruction.index = static_cast<PlanIndex>(row.at(key).integer(0, kMostIndex));
  instruction.microbatch = microbatch_of(row);
  instruction.reads = parse_optional_indices(row, "reads");
  instruction.writes = parse_optional_indices(row, "writes");
  if (const auto workspace = row.find("workspace")) instruction.workspace = parse_index(*workspace);
  instruction.start_s = number_at(row, "start_s");
  return instruction;
}

PlanInput parse_input(const JsonView& row) {
  row.require_keys({"id", "name", "value", "is_batched", "role", "ignored_label"});
  PlanInput input{row.at("name").text(), parse_index(row.at("value")), row.at("is_batched").flag(),
                  parse_name(row.at("role"), kRoleCount, input_role_name)};
  if (const auto ignored = row.find("ignored_label")) input.ignored_label = ignored->integer();
  return input;
}

PlanOutput parse_output(const JsonView& row) {
  row.require_keys({"id", "name", "value", "combine"});
  return {row.at("name").text(), parse_index(row.at("value")),
          parse_name(row.at("combine"), kCombineCount, combine_name)};
}

PlanUpdate parse_update(const JsonView& row) {
  row.require_keys({"persistent", "next"});
  return {parse_index(row.at("persistent")), parse_index(row.at("next"))};
}

PlanGradient parse_gradient(const JsonView& row) {
  row.require_keys({"parameter", "gradient"});
  return {parse_index(row.at("parameter")), parse_index(row.at("gradient"))};
}

// A table whose rows may carry their position, so that a row that was moved or taken out by hand is noticed.
template <class T>
std::vector<T> parse_table(const JsonView& root, std::string_view key, T (*parse_row)(const JsonView&)) {
  std::vector<T> rows;
  const JsonView table = root.at(key);
  const int64_t count = table.count();
  rows.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const JsonView row = table.element(i);
    const auto id = row.find("id");
    if (id && id->integer() != i) id->fail(fmt::format("is {}, but the row stands at position {}", id->integer(), i));
    rows.push_back(parse_row(row));
  }
  return rows;
}

std::pair<std::string, std::vector<int64_t>> parse_input_shape(const JsonView& view) {
  if (view.count() != 2) view.fail("must be [name, shape]");
  const auto dims = parse_list<int64_t>(view.element(1), [](const JsonView& dim) { return dim.integer(0); });
  return {view.element(0).text(), dims};
}

PlanModel parse_model(const JsonView& view) {
  view.require_keys({"path", "sha256", "input_shapes"});
  PlanModel model;
  model.path = view.at("path").text();
  model.sha256 = view.at("sha256").text();
  model.input_shapes =
      parse_list<std::pair<std::string, std::vector<int64_t>>>(view.at("input_shapes"), parse_input_shape);
  return model;
}

void parse_head(const JsonView& root, Plan& plan) {
  plan.model = parse_model(root.at("model"));
  plan.is_training = root.at("is_training").flag();
  plan.schedule = root.at("schedule").text();
  plan.objective = root.at("objective").text();
  plan.precision = root.at("precision").text();
  plan.microbatches = static_cast<int32_t>(root.at("microbatches").integer(1, kMostInt32));
  plan.batch = root.at("batch").integer(0);
  plan.microbatch_rows = root.at("microbatch_rows").integer(0);
  plan.has_tail = root.at("has_tail").flag();
  plan.event_count = static_cast<PlanIndex>(root.at("event_count").integer(0, kMostIndex));
  plan.loss = parse_index(root.at("loss"));
  plan.step_seconds = number_at(root, "step_seconds");
  plan.bubble = number_at(root, "bubble");
  plan.objective_value = number_at(root, "objective_value");
  plan.objective_lower_bound = number_at(root, "objective_lower_bound");
  plan.one_device_seconds = number_at(root, "one_device_seconds");
  const auto text_of = [](const JsonView& view) { return view.text(); };
  plan.warnings = parse_list<std::string>(root.at("warnings"), text_of);
  plan.notes = parse_list<std::string>(root.at("notes"), text_of);
}

// Before anything else is looked at: another format or version has other members.
void check_format(const JsonView& root, const std::string& where) {
  const auto format = root.find("format");
  if (!format || format->text() != plan_text::kFormat) {
    root.fail("is not an mpc plan", fmt::format("a plan starts with \"format\":\"{}\"", plan_text::kFormat));
  }
  const int64_t version = root.at("version").integer();
  if (version == kPlanVersion) return;
  throw Error(ErrorId::M062, where,
              fmt::format("has plan version {}, this mpc reads version {}", version, kPlanVersion),
              "make the plan again with mpc partition");
}

}  // namespace

Plan parse_plan(std::string_view text, const std::string& where) {
  const Json json = parse_json(text, ErrorId::M060, where);
  const JsonView root(json, ErrorId::M060, where);
  check_format(root, where);
  root.require_keys({"format",
                     "version",
                     "model",
                     "is_training",
                     "schedule",
                     "objective",
                     "precision",
                     "microbatches",
                     "batch",
                     "microbatch_rows",
                     "has_tail",
                     "event_count",
                     "loss",
                     "step_seconds",
                     "bubble",
                     "objective_value",
                     "objective_lower_bound",
                     "one_device_seconds",
                     "warnings",
                     "notes",
                     "devices",
                     "links",
                     "inputs",
                     "outputs",
                     "updates",
                     "gradients",
                     "values",
                     "nodes",
                     "transfers",
                     "slices",
                     "queues",
                     "instructions"});
  Plan plan;
  parse_head(root, plan);
  plan.devices = parse_table(root, "devices", parse_device);
  plan.links = parse_table(root, "links", parse_link);
  plan.inputs = parse_table(root, "inputs", parse_input);
  plan.outputs = parse_table(root, "outputs", parse_output);
  plan.updates = parse_table(root, "updates", parse_update);
  plan.gradients = parse_table(root, "gradients", parse_gradient);
  plan.values = parse_table(root, "values", parse_value);
  plan.nodes = parse_table(root, "nodes", parse_node);
  plan.transfers = parse_table(root, "transfers", parse_transfer);
  plan.slices = parse_table(root, "slices", parse_slice);
  plan.queues = parse_table(root, "queues", parse_queue);
  plan.instructions = parse_table(root, "instructions", parse_instruction);
  return plan;
}

}  // namespace mpc
