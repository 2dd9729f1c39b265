#include "compiler/onnx/importer.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>
#include <onnx/defs/schema.h>

#include "compiler/base/text.h"
#include "compiler/onnx/constant_indices.h"
#include "compiler/onnx/functions.h"
#include "compiler/onnx/import_rules.h"
#include "compiler/onnx/types.h"
#include "compiler/ops/builder.h"

// The inner half of the importer: slots, one node at a time, folding, expansion of ONNX functions.

namespace mpc::onnx_io {
namespace {

/// Shape arithmetic and small tables are folded; a larger result is computed by the step, so that graphs and plans stay
/// small.
constexpr int64_t kFoldBytes = int64_t{64} << 10;

std::optional<Attribute> to_attribute(const pb::AttributeProto& a) {
  switch (a.type()) {
    case pb::AttributeProto::INT:
      return Attribute(static_cast<int64_t>(a.i()));
    case pb::AttributeProto::FLOAT:
      return Attribute(static_cast<double>(a.f()));
    case pb::AttributeProto::STRING:
      return Attribute(a.s());
    case pb::AttributeProto::INTS:
      return Attribute(std::vector<int64_t>(a.ints().begin(), a.ints().end()));
    case pb::AttributeProto::FLOATS:
      return Attribute(std::vector<double>(a.floats().begin(), a.floats().end()));
    case pb::AttributeProto::STRINGS:
      return Attribute(std::vector<std::string>(a.strings().begin(), a.strings().end()));
    default:
      return std::nullopt;
  }
}

/// The most negative finite number of a float type.
double lowest_number(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return -65504.0;
    case DType::bf16:
      return -0x1.fep127;
    case DType::f32:
      return std::numeric_limits<float>::lowest();
    default:
      return std::numeric_limits<double>::lowest();
  }
}

bool is_refusal(ErrorId id) {
  return id == ErrorId::M040 || id == ErrorId::M041 || id == ErrorId::M046;
}

std::string qualified_op(const pb::NodeProto& node) {
  const std::string domain(canonical_domain(node.domain()));
  return domain.empty() ? node.op_type() : domain + "." + node.op_type();
}

const pb::OpSchema* schema_of(const OnnxNode& node) {
  const std::string domain(canonical_domain(node.proto->domain()));
  const auto version = node.opsets->find(domain);
  if (version == node.opsets->end()) return nullptr;
  return pb::OpSchemaRegistry::Schema(node.op, static_cast<int>(std::min<int64_t>(version->second, INT32_MAX)), domain);
}

/// Why an op that has neither a definition nor a body is refused.
std::string refusal_of(const OnnxNode& node) {
  const std::string domain(canonical_domain(node.proto->domain()));
  if (const pb::OpSchema* newest = pb::OpSchemaRegistry::Schema(node.op, domain)) {
    if (schema_of(node) == nullptr) return fmt::format("{} exists from opset {} on", node.op, newest->SinceVersion());
    return "mpc has no kernel for it, and ONNX no body of other operators";
  }
  if (!domain.empty()) return fmt::format("mpc knows no operator of domain '{}'", escaped(domain, 60));
  std::vector<std::string> names;
  for (const auto& schema : pb::OpSchemaRegistry::get_all_schemas()) {
    if (schema.domain().empty()) names.push_back(schema.Name());
  }
  std::ranges::sort(names);
  const auto near = nearest(node.op, names);
  return near ? fmt::format("ONNX has no such operator; did you mean {}?", *near) : "ONNX has no such operator";
}

}  // namespace

int64_t OnnxNode::opset() const {
  const auto it = opsets->find("");
  return it == opsets->end() ? kNewestOpset : it->second;
}

std::string OnnxNode::where() const {
  return "node \"" + name + "\" (" + op + ")";
}

const pb::AttributeProto* OnnxNode::find(std::string_view attribute) const {
  for (const auto& candidate : proto->attribute()) {
    if (candidate.name() == attribute) return &candidate;
  }
  return nullptr;
}

int64_t OnnxNode::integer(std::string_view attribute, int64_t otherwise) const {
  return attributes.has(attribute) ? attributes.integer(attribute) : otherwise;
}
double OnnxNode::number(std::string_view attribute, double otherwise) const {
  return attributes.has(attribute) ? attributes.number(attribute) : otherwise;
}
std::string OnnxNode::text(std::string_view attribute, std::string_view otherwise) const {
  return attributes.has(attribute) ? attributes.text(attribute) : std::string(otherwise);
}

void OnnxNode::fail(ErrorId id, std::string message, std::string hint) const {
  throw Error(id, where(), std::move(message), std::move(hint));
}

TensorContent Importer::tensor(const OnnxNode& node, const pb::TensorProto& tensor) const {
  auto content = check_tensor(tensor, data_.files.get(), node.where());
  if (!content)
    node.fail(ErrorId::M041, fmt::format("its tensor is of type {} and rank {}", onnx_type_text(tensor.data_type()),
                                         tensor.dims_size()));
  return *content;
}

Slot Importer::add_slot(SlotData data) {
  slots_.push_back(std::move(data));
  return static_cast<Slot>(slots_.size()) - 1;
}

/// torch.onnx makes initializers `val_<n>` of a formula's numbers (an attention's scale, of shape (1)), of the ones and
/// zeros that stand where a normalization has no weight and bias, and of masks that it computed, which hold the lowest
/// number of their type. A parameter is called as in the network; only when the exporter changed its layout it has such
/// a name too, and then other operators read it, or it has other numbers.
bool Importer::is_exported_constant(const std::string& name, const TensorContent& content) const {
  constexpr std::string_view kPrefix = "val_";
  constexpr std::string_view kFactors[] = {"Div", "Mul"};
  constexpr std::string_view kMasked[] = {"Add"};
  constexpr std::string_view kNormalizations[] = {"BatchNormalization", "GroupNormalization", "InstanceNormalization",
                                                  "LayerNormalization", "RMSNormalization"};
  if (data_.info.producer != "pytorch" || content.shape.elements() == 0 || !is_float(content.dtype) ||
      !name.starts_with(kPrefix) || !parse_integer(std::string_view(name).substr(kPrefix.size())))
    return false;
  const auto readers = data_.readers.find(name);
  if (readers == data_.readers.end()) return false;
  const auto are_all = [&](std::span<const std::string_view> ops) {
    return std::ranges::all_of(readers->second, [&](const auto& op) { return std::ranges::count(ops, op) > 0; });
  };
  if (content.shape.elements() == 1 && are_all(kFactors)) return true;
  const bool is_mask = are_all(kMasked);
  if (!is_mask && !are_all(kNormalizations)) return false;
  const Literal literal = to_literal(content, data_.files.get());
  const auto any = [&](const auto& holds) {
    for (int64_t i = 0; i < content.shape.elements(); ++i) {
      if (holds(literal.number(i))) return true;
    }
    return false;
  };
  if (is_mask) return any([lowest = lowest_number(content.dtype)](double number) { return number <= lowest; });
  return !any([first = literal.number(0)](double number) { return number != first; });
}

Slot Importer::lookup(const std::string& name) {
  if (name.empty()) return kAbsent;
  if (const auto it = names_.find(name); it != names_.end()) return it->second;
  const TensorContent* weight = data_.weights.find(name);
  if (weight == nullptr) {  // only initializers of a type mpc has not are left
    throw Error(ErrorId::M041, "initializer \"" + name + "\"", "is of a data type or rank that is not supported");
  }
  SlotData slot{.name = name, .type = {weight->dtype, weight->shape}, .value = {}, .literal = {}};
  // Scalars are how exporters write the numbers of a formula; integers are indices and shapes.
  const bool is_number = weight->shape.rank() == 0 || is_exported_constant(name, *weight);
  const bool is_constant =
      weight->shape.rank() == 0 || ((is_number || !is_float(weight->dtype)) && weight->bytes() <= kFoldBytes);
  if (is_constant) {
    slot.literal = to_literal(*weight, data_.files.get());
  } else {
    const auto generated = data_.generated.find(name);
    slot.weight = weight;
    slot.trainable = is_float(weight->dtype) && !is_number && !data_.untrained.contains(name) &&
                     (generated == data_.generated.end() || generated->second);
  }
  return names_[name] = add_slot(std::move(slot));
}

std::optional<Literal> Importer::content(Slot slot) const {
  const SlotData& data = slots_[static_cast<size_t>(slot)];
  if (data.literal) return data.literal;
  if (data.weight != nullptr && data.weight->bytes() <= kFoldBytes) return to_literal(*data.weight, data_.files.get());
  return std::nullopt;
}

Literal Importer::require_content(const OnnxNode& node, size_t input, std::string_view what) const {
  auto literal = content(node.inputs[input]);
  if (!literal) {
    node.fail(
        ErrorId::M043,
        fmt::format("input {} ('{}') decides the {} and is not known when planning", input,
                    escaped(slots_[static_cast<size_t>(node.inputs[input])].name, 200), what),
        "give the content of the input that it depends on (--content INPUT=N,...), or export the model with constant "
        "shapes");
  }
  return *literal;
}

ValueId Importer::value(Slot slot) {
  SlotData& data = slots_[static_cast<size_t>(slot)];
  if (data.value.is_valid()) return data.value;
  if (data.literal) {
    data.value = graph_.add_constant(data.name, *data.literal);
  } else {
    MPC_CHECK(data.weight != nullptr, "a slot has a value, a literal or a weight");
    data.value = graph_.add_parameter(data.name, data.type.dtype, data.type.shape, data.name, data.trainable);
  }
  return data.value;
}

Slot Importer::add_literal(std::string name, Literal literal) {
  const TensorType type{literal.dtype(), literal.shape()};
  return add_slot({.name = std::move(name), .type = type, .value = {}, .literal = std::move(literal)});
}

Slot Importer::scalar_like(Slot like, double value, const std::string& name) {
  return add_literal(name, Literal::scalar(type(like).dtype, value));
}

void Importer::bind(const OnnxNode& node, size_t output, Slot slot) {
  if (!node.has_output(output)) return;
  const std::string& name = node.outputs[output];
  const auto declared = declared_types_.find(name);
  if (declared != declared_types_.end() && declared->second != to_onnx_type(type(slot).dtype)) {
    node.fail(ErrorId::M034, fmt::format("output '{}' is declared as {}, it is {}", escaped(name, 200),
                                         onnx_type_text(declared->second), dtype_name(type(slot).dtype)));
  }
  names_[name] = slot;
}

void Importer::count_folded(const OnnxNode& node, int64_t bytes) {
  if (bytes > data_.limits.folded_constant_bytes)
    node.fail(ErrorId::M051, fmt::format("makes a constant of {} bytes, at most {} are allowed", bytes,
                                         data_.limits.folded_constant_bytes));
  folded_bytes_ += bytes;
  if (folded_bytes_ > data_.limits.folded_bytes_total)
    node.fail(ErrorId::M051, fmt::format("constants take more than {} bytes in all", data_.limits.folded_bytes_total));
}

void Importer::bind_literal(const OnnxNode& node, size_t output, Literal literal) {
  if (!node.has_output(output)) return;
  const int64_t bytes = byte_size(literal.shape(), literal.dtype());
  if (bytes > data_.limits.value_bytes)
    node.fail(ErrorId::M051, fmt::format("output {} would have {} bytes, a value may have {}", output, bytes,
                                         data_.limits.value_bytes));
  if (!literal.is_splat()) count_folded(node, bytes);
  bind(node, output, add_literal(node.outputs[output], std::move(literal)));
}

std::optional<std::vector<Slot>> Importer::fold(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs,
                                                const Attributes& given, const std::vector<std::string>& output_names) {
  std::vector<std::optional<Literal>> literals;
  std::vector<std::optional<TensorType>> types;
  for (const Slot input : inputs) {
    literals.push_back(input == kAbsent ? std::nullopt : known(input));
    types.push_back(input == kAbsent ? std::nullopt : std::optional(type(input)));
    if (input != kAbsent && !literals.back()) return std::nullopt;
  }
  while (!types.empty() && !types.back()) {
    types.pop_back();
    literals.pop_back();
  }
  Attributes attributes = given;
  const auto inferred = infer_types(op, node.where(), attributes, types, static_cast<int>(output_names.size()));
  std::vector<TensorType> outputs;
  int64_t bytes = 0;
  for (const auto& output : inferred) {
    if (!output || byte_size(output->shape, output->dtype) > kFoldBytes) return std::nullopt;
    outputs.push_back(*output);
    bytes += byte_size(output->shape, output->dtype);
  }
  // A reduction of a large splat would be expanded to be computed.
  for (const auto& literal : literals) {
    if (literal && byte_size(literal->shape(), literal->dtype()) > data_.limits.folded_constant_bytes)
      return std::nullopt;
  }
  count_folded(node, bytes);
  std::vector<Literal> results;
  try {
    results = evaluator_.evaluate(op, attributes, literals, outputs);
  } catch (const Error& error) {
    throw Error(error.id(), node.where(), error.what_happened(), error.hint());
  }
  std::vector<Slot> slots;
  for (size_t i = 0; i < results.size(); ++i) slots.push_back(add_literal(output_names[i], std::move(results[i])));
  return slots;
}

void Importer::note_product(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs,
                            const Attributes& attributes) {
  mismatch_.reset();
  if ((op != OpKind::Gemm && op != OpKind::MatMul) || inputs.size() < 2) return;
  if (inputs[0] == kAbsent || inputs[1] == kAbsent) return;
  const Shape& a = type(inputs[0]).shape;
  const Shape& b = type(inputs[1]).shape;
  if (a.rank() == 0 || b.rank() == 0 || (op == OpKind::Gemm && (a.rank() != 2 || b.rank() != 2))) return;
  const auto is_set = [&](std::string_view name) {
    const Attribute* value = attributes.find(name);
    return value != nullptr && *value != Attribute(int64_t{0});
  };
  const int64_t found = a[is_set("transA") ? 0 : a.rank() - 1];
  const int64_t expected = b[is_set("transB") ? 1 : std::max(0, b.rank() - 2)];
  if (found != expected) mismatch_ = ProductMismatch{node.name, found, expected};
}

bool Importer::has_imported(const std::string& node) const {
  return std::ranges::find(graph_.nodes(), node, &Node::name) != graph_.nodes().end();
}

std::vector<Slot> Importer::emit_named(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs,
                                       Attributes attributes, const std::string& node_name,
                                       const std::vector<std::string>& output_names) {
  check_constant_indices(*this, node, op, inputs, attributes);
  if (op != OpKind::Dropout) {
    if (auto folded = fold(node, op, inputs, attributes, output_names)) return *folded;
  }
  note_product(node, op, inputs, attributes);
  std::vector<ValueId> operands;
  for (const Slot input : inputs) operands.push_back(input == kAbsent ? ValueId() : value(input));
  const NodeId id = append(
      graph_, op, std::move(operands), std::move(attributes),
      {.name = node_name, .origin = node.origin, .phase = Phase::forward, .anchor = {}, .output_names = output_names});
  std::vector<Slot> slots;
  for (size_t i = 0; i < output_names.size(); ++i) {
    const ValueId result = i < graph_.node(id).outputs.size() ? graph_.node(id).outputs[i] : ValueId();
    if (!result.is_valid()) {
      slots.push_back(kAbsent);
      continue;
    }
    const Value& made = graph_.value(result);
    if (made.bytes() > data_.limits.value_bytes)
      node.fail(ErrorId::M051, fmt::format("output {} would have {} bytes, a value may have {}", i, made.bytes(),
                                           data_.limits.value_bytes));
    slots.push_back(
        add_slot({.name = output_names[i], .type = {made.dtype, made.shape}, .value = result, .literal = {}}));
  }
  return slots;
}

std::vector<Slot> Importer::emit_results(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs,
                                         Attributes attributes) {
  std::vector<std::string> names = node.outputs;
  while (names.size() > 1 && names.back().empty()) names.pop_back();
  std::vector<Slot> slots = emit_named(node, op, inputs, std::move(attributes), node.name, names);
  for (size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] != kAbsent) bind(node, i, slots[i]);
  }
  return slots;
}

Slot Importer::emit(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs, Attributes attributes,
                    std::string_view suffix) {
  const std::string name = fmt::format("{}/{}", node.name, suffix);
  return emit_named(node, op, inputs, std::move(attributes), name, {name})[0];
}

std::vector<Slot> Importer::emit_parts(const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs,
                                       Attributes attributes, std::string_view suffix, int64_t count) {
  const std::string name = fmt::format("{}/{}", node.name, suffix);
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(fmt::format("{}.{}", name, i));
  return emit_named(node, op, inputs, std::move(attributes), name, names);
}

Slot Importer::reshape(const OnnxNode& node, Slot slot, const std::vector<int64_t>& shape, std::string_view suffix) {
  return emit(node, OpKind::Reshape, {slot}, {{"shape", shape}, {"allowzero", int64_t{1}}}, suffix);
}

void Importer::refuse(const OnnxNode& node, const std::string& reason, ErrorId id) {
  unsupported_.push_back({node.name, qualified_op(*node.proto), reason});
  unsupported_ids_.push_back(id);
  for (const std::string& output : node.outputs) {
    if (!output.empty())
      names_[output] = add_slot({.name = output, .type = {}, .value = {}, .literal = {}, .is_unsupported = true});
  }
}

void Importer::process(const Work& work) {
  if (++node_count_ > data_.limits.nodes)
    throw Error(ErrorId::M051, "graph",
                fmt::format("there are more than {} nodes after functions are expanded", data_.limits.nodes));
  OnnxNode node;
  node.proto = work.proto;
  node.op = work.proto->op_type();
  node.name = work.name;
  node.origin = work.origin;
  node.opsets = work.opsets;
  node.depth = work.depth;
  node.outputs.assign(work.proto->output().begin(), work.proto->output().end());
  for (const auto& attribute : work.proto->attribute()) {
    if (attribute.name().starts_with("__")) continue;
    if (auto converted = to_attribute(attribute)) node.attributes.set(attribute.name(), std::move(*converted));
  }
  // What a Constant of many numbers or a fill makes may be a parameter: its slot then comes from the weights.
  if (node.outputs.size() == 1 && data_.generated.contains(node.outputs[0])) {
    lookup(node.outputs[0]);
    return;
  }
  bool reads_unsupported = false;
  try {
    for (const std::string& input : work.proto->input()) {
      const Slot slot = lookup(input);
      node.inputs.push_back(slot);
      reads_unsupported = reads_unsupported || (slot != kAbsent && slots_[static_cast<size_t>(slot)].is_unsupported);
    }
    while (!node.inputs.empty() && node.inputs.back() == kAbsent) node.inputs.pop_back();
    if (!reads_unsupported) return import_node(node);
  } catch (const Error& error) {
    if (!is_refusal(error.id())) throw;
    return refuse(node, error.what_happened(), error.id());
  }
  // Its types are not known, but whether mpc has the op is.
  const pb::OpSchema* schema = schema_of(node);
  const bool is_known = schema != nullptr && canonical_domain(node.proto->domain()).empty() &&
                        (find_import_rule(node.op) != nullptr || find_op(node.op) || schema->HasFunction() ||
                         schema->HasContextDependentFunction());
  if (!is_known) return refuse(node, refusal_of(node), ErrorId::M040);
  for (const std::string& output : node.outputs) {
    if (!output.empty())
      names_[output] = add_slot({.name = output, .type = {}, .value = {}, .literal = {}, .is_unsupported = true});
  }
}

void Importer::import_node(OnnxNode& node) {
  const bool is_standard = canonical_domain(node.proto->domain()).empty() && schema_of(node) != nullptr;
  if (is_standard) {
    if (const ImportRule rule = find_import_rule(node.op)) return rule(*this, node);
    if (const auto op = find_op(node.op)) return import_plain(node, *op);
  }
  if (!expand_function(node)) node.fail(ErrorId::M040, refusal_of(node));
}

bool Importer::expand_function(const OnnxNode& node) {
  const pb::OpSchema* schema = schema_of(node);
  if (schema == nullptr) return false;
  const auto version = static_cast<int>(node.opsets->at(std::string(canonical_domain(node.proto->domain()))));
  pb::FunctionProto built;
  const pb::FunctionProto* function = nullptr;
  try {
    if (schema->HasFunction()) function = schema->GetFunction(version);
    if (function == nullptr && schema->HasContextDependentFunction()) {
      std::vector<pb::TypeProto> types(static_cast<size_t>(node.proto->input_size()));
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        if (node.inputs[i] == kAbsent) continue;
        auto* tensor = types[i].mutable_tensor_type();
        tensor->set_elem_type(to_onnx_type(type(node.inputs[i]).dtype));
        tensor->mutable_shape();
        for (const int64_t dim : type(node.inputs[i]).shape) tensor->mutable_shape()->add_dim()->set_dim_value(dim);
      }
      const pb::FunctionBodyBuildContextImpl context(*node.proto, types);
      if (schema->BuildContextDependentFunction(context, built, version)) function = &built;
    }
  } catch (const std::exception& error) {  // libonnx reports through several types of its own
    node.fail(ErrorId::M046, fmt::format("ONNX gives no body for it: {}", escaped(error.what(), 300)));
  }
  if (function == nullptr) return false;
  Opsets opsets = *node.opsets;
  for (const auto& import : function->opset_import())
    opsets[std::string(canonical_domain(import.domain()))] = import.version();
  expanded_opsets_.push_back(std::move(opsets));
  const auto unique = [this](const std::string& base) {
    std::string name = base;
    for (int i = 1; data_.value_names.contains(name) || !expanded_names_.insert(name).second; ++i)
      name = fmt::format("{}.{}", base, i);
    return name;
  };
  pb::NodeProto call = *node.proto;
  for (const auto& [name, attribute] :
       schema->attributes()) {  // bodies refer to attributes that the caller may leave out
    const bool has_default =
        attribute.default_value.has_type() && attribute.default_value.type() != pb::AttributeProto::UNDEFINED;
    if (has_default && node.find(name) == nullptr) *call.add_attribute() = attribute.default_value;
  }
  try {
    push(node, expand_call(call, *function, node.name, unique), &expanded_opsets_.back());
  } catch (const Error& error) {
    if (error.id() != ErrorId::M025) throw;
    node.fail(ErrorId::M046, fmt::format("the body that ONNX gives does not fit it: {}", error.what_happened()));
  }
  return true;
}

void Importer::push(const OnnxNode& node, std::vector<pb::NodeProto> body, const Opsets* opsets) {
  if (node.depth >= data_.limits.function_call_depth)
    node.fail(ErrorId::M051,
              fmt::format("expands to functions or graphs more than {} deep", data_.limits.function_call_depth));
  for (auto it = body.rbegin(); it != body.rend(); ++it) {
    auto owned = std::make_shared<const pb::NodeProto>(std::move(*it));
    work_.push_back({owned.get(), owned, owned->name(), node.origin, opsets, node.depth + 1});
  }
}

void Importer::inline_graph(const OnnxNode& node, const pb::GraphProto& graph) {
  if (graph.output_size() != static_cast<int>(node.outputs.size())) {
    node.fail(ErrorId::M022, fmt::format("has {} outputs, its graph {}", node.outputs.size(), graph.output_size()));
  }
  if (graph.sparse_initializer_size() != 0)
    node.fail(ErrorId::M046, "sparse initializers in a graph of a node are not supported");
  for (const auto& initializer : graph.initializer()) {
    const TensorContent content = tensor(node, initializer);
    count_folded(node, content.bytes());
    names_[initializer.name()] = add_literal(initializer.name(), read(content));
  }
  std::vector<pb::NodeProto> body;
  for (const int position : topological_order(graph.node(), node.where())) {
    body.push_back(graph.node(position));
    body.back().set_name(node.name + "/" + name_of(body.back()));
  }
  for (int i = 0; i < graph.output_size(); ++i) {
    pb::NodeProto identity;
    identity.set_op_type("Identity");
    identity.set_name(node.name + "/" + graph.output(i).name());
    identity.add_input(graph.output(i).name());
    identity.add_output(node.outputs[static_cast<size_t>(i)]);
    body.push_back(std::move(identity));
  }
  push(node, std::move(body), node.opsets);
}

}  // namespace mpc::onnx_io
