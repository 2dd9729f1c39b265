#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/base/text.h"
#include "compiler/onnx/fitting_input.h"
#include "compiler/onnx/importer.h"
#include "compiler/onnx/types.h"

// The outer half of the importer: inputs with their shapes, the walk, outputs, and Model::import itself.

namespace mpc::onnx_io {
namespace {

std::string input_where(const DeclaredValue& input) {
  return "input \"" + input.name + "\"";
}

/// An input of the model whose shape is not known to its end, and what would make it known.
struct OpenShape {
  std::string shape;               // "(batch, 3, ?)"
  std::vector<std::string> flags;  // of `mpc` commands
};

/// Inputs as the file declares them, up to the first few: "images" (batch, 3, ?) and ...
[[noreturn]] void refuse_open(const std::vector<std::pair<const DeclaredValue*, OpenShape>>& open) {
  constexpr size_t kNamed = 8;
  std::string what = fmt::format("its shape {} is open", open.front().second.shape);
  std::vector<std::string> flags;
  for (size_t i = 0; i < std::min(open.size(), kNamed); ++i) {
    const auto& [input, shape] = open[i];
    if (i > 0) {
      what += fmt::format("{} \"{}\" {}", i == 1 ? ", as are those of" : ",", escaped(input->name, 100), shape.shape);
    }
    for (const std::string& flag : shape.flags) {
      if (std::ranges::find(flags, flag) == flags.end()) flags.push_back(flag);
    }
  }
  if (open.size() > kNamed) what += fmt::format(", and {} more", open.size() - kNamed);
  throw Error(ErrorId::M043, input_where(*open.front().first), what,
              fmt::format("bind what is open: {}", fmt::join(flags, " ")));
}

/// @throws Error(M002) for a binding of a symbol that no input has: the one that was meant would stay unbound.
void require_symbols(const ModelInfo& info, const std::map<std::string, int64_t>& dims) {
  std::vector<std::string> symbols;
  for (const DeclaredValue& input : info.inputs) {
    for (const DeclaredDim& dim : input.dims) {
      if (!dim.symbol.empty() && std::ranges::find(symbols, dim.symbol) == symbols.end()) symbols.push_back(dim.symbol);
    }
  }
  for (const auto& [symbol, _] : dims) {
    const bool is_default = info.metadata.contains("mpc.default_" + symbol);
    if (is_default || std::ranges::find(symbols, symbol) != symbols.end()) continue;
    const auto near = nearest(symbol, symbols);
    throw Error(ErrorId::M002, "", fmt::format("no input has a dimension '{}'", escaped(symbol, 100)),
                near ? fmt::format("did you mean '{}'?", escaped(*near, 100))
                : symbols.empty()
                    ? "all its dimensions are numbers"
                    : fmt::format("its dimensions are: {}", escaped(fmt::format("{}", fmt::join(symbols, ", ")), 300)));
  }
}

}  // namespace

Importer::Importer(const Model::Data& data, const ImportOptions& options, const Evaluator& evaluator)
    : data_(data), options_(options), evaluator_(evaluator), dims_(options.dims) {
  graph_.name = data.info.graph_name;
  const pb::GraphProto& graph = data.proto.graph();
  for (const auto* values : {&graph.value_info(), &graph.output()}) {
    for (const auto& value : *values) {
      if (value.type().has_tensor_type()) declared_types_[value.name()] = value.type().tensor_type().elem_type();
    }
  }
  for (const auto& [symbol, dim] : options.dims) {
    if (dim < 0)
      throw Error(ErrorId::M003, "",
                  fmt::format("dimension '{}' is bound to {}, it must not be negative", symbol, dim));
  }
  require_symbols(data.info, options.dims);
}

Graph Importer::run() {
  add_inputs();
  for (const FlatNode& flat : data_.nodes) {
    work_.push_back({flat.node, nullptr, flat.name, flat.origin, flat.opsets, 0});
    while (!work_.empty()) {
      const Work next = std::move(work_.back());
      work_.pop_back();
      process(next);
    }
  }
  add_outputs();
  return std::move(graph_);
}

void Importer::add_inputs() {
  const auto& inputs = data_.info.inputs;
  for (const auto& [name, shape] : options_.input_shapes) {
    const bool is_there = std::ranges::any_of(inputs, [&](const DeclaredValue& input) { return input.name == name; });
    if (!is_there) throw Error(ErrorId::M004, "", fmt::format("the model has no input '{}'", escaped(name, 200)));
  }
  // Shapes that are given bind symbols for all inputs, so they are looked at first.
  for (const DeclaredValue& input : inputs) {
    const auto given = options_.input_shapes.find(input.name);
    if (given == options_.input_shapes.end() || !input.has_shape) continue;
    if (given->second.size() != input.dims.size()) {
      throw Error(
          ErrorId::M004, input_where(input),
          fmt::format("has rank {}, the shape given is ({})", input.dims.size(), fmt::join(given->second, ", ")));
    }
    for (size_t i = 0; i < input.dims.size(); ++i) {
      const std::string& symbol = input.dims[i].symbol;
      if (symbol.empty()) continue;
      const auto [it, is_new] = dims_.emplace(symbol, given->second[i]);
      if (!is_new && it->second != given->second[i]) {
        throw Error(ErrorId::M004, input_where(input),
                    fmt::format("dimension {} ('{}') is {} here and {} elsewhere", i, escaped(symbol, 100),
                                given->second[i], it->second));
      }
    }
  }
  for (const DeclaredValue& input : inputs) {
    if (!input.dtype && !options_.known_inputs.contains(input.name))
      throw Error(ErrorId::M041, input_where(input), "is not a tensor of a type that mpc has");
  }
  require_bound();
  for (const DeclaredValue& input : inputs) {
    if (const auto known = options_.known_inputs.find(input.name); known != options_.known_inputs.end()) {
      add_known_input(input, known->second);
      continue;
    }
    const std::vector<int64_t> dims = input_dims(input);
    if (dims.size() > kMaxRank)
      throw Error(ErrorId::M046, input_where(input),
                  fmt::format("has rank {}, at most {} is supported", dims.size(), kMaxRank));
    const auto shape = checked_shape(dims, *input.dtype);
    if (!shape || byte_size(*shape, *input.dtype) > data_.limits.value_bytes) {
      throw Error(
          ErrorId::M051, input_where(input),
          fmt::format("has shape ({}), a value may have {} bytes", fmt::join(dims, ", "), data_.limits.value_bytes));
    }
    const ValueId value = graph_.add_input(input.name, *input.dtype, *shape);
    names_[input.name] = add_slot({.name = input.name, .type = {*input.dtype, *shape}, .value = value, .literal = {}});
  }
}

/// The first input's dimension 0 is the batch: an input whose dimension 0 is written the same way, or in another way
/// that is known to be the batch, gets options.batch.
bool Importer::is_batch(const DeclaredValue& input, size_t axis) const {
  const auto& first = data_.info.inputs.front().dims;
  const DeclaredDim& dim = input.dims[axis];
  if (axis != 0) return false;
  if (options_.batch_symbols.contains(dim.symbol)) return true;
  return !first.empty() && dim.value == first[0].value && dim.symbol == first[0].symbol;
}

std::optional<int64_t> Importer::input_dim(const DeclaredValue& input, size_t axis) const {
  const DeclaredDim& dim = input.dims[axis];
  const auto given = options_.input_shapes.find(input.name);
  if (options_.batch && is_batch(input, axis)) return options_.batch;
  if (dim.value >= 0) {
    if (given != options_.input_shapes.end() && given->second[axis] != dim.value) {
      throw Error(ErrorId::M004, input_where(input),
                  fmt::format("dimension {} is {} in the model, {} was given", axis, dim.value, given->second[axis]));
    }
    return dim.value;
  }
  if (given != options_.input_shapes.end()) return given->second[axis];
  if (dim.symbol.empty()) return std::nullopt;
  if (const auto bound = dims_.find(dim.symbol); bound != dims_.end()) return bound->second;
  const auto& first = data_.info.inputs.front().dims;
  return !first.empty() && dim.symbol == first[0].symbol ? options_.batch : std::nullopt;
}

/// @throws Error(M043) that names every input whose shape is not known to its end.
void Importer::require_bound() const {
  std::vector<std::pair<const DeclaredValue*, OpenShape>> open;
  for (const DeclaredValue& input : data_.info.inputs) {
    const std::string name = escaped(input.name, 100);
    if (options_.known_inputs.contains(input.name) || forced_inputs_.contains(input.name)) continue;
    if (!input.has_shape) {
      if (options_.input_shapes.contains(input.name)) continue;
      open.push_back({&input, {"of unknown rank", {fmt::format("--shape {}=N,...", name)}}});
      continue;
    }
    OpenShape shape;
    std::vector<std::string> declared;
    std::vector<std::string> numbers;  // for --shape
    bool is_named = true;              // every open dimension
    for (size_t i = 0; i < input.dims.size(); ++i) {
      const std::string symbol = escaped(input.dims[i].symbol, 100);
      const std::optional<int64_t> dim = input_dim(input, i);
      numbers.push_back(dim ? fmt::to_string(*dim) : "N");
      declared.push_back(input.dims[i].value >= 0 ? numbers.back() : symbol.empty() ? "?" : symbol);
      if (dim) continue;
      if (is_batch(input, i))
        shape.flags.push_back(symbol.empty() ? "--batch N" : fmt::format("--batch N (or --dim {}=N)", symbol));
      else if (symbol.empty())
        is_named = false;
      else
        shape.flags.push_back(fmt::format("--dim {}=N", symbol));
    }
    if (!is_named) shape.flags = {fmt::format("--shape {}={}", name, fmt::join(numbers, ","))};
    shape.shape = fmt::format("({})", fmt::join(declared, ", "));
    if (!shape.flags.empty()) open.emplace_back(&input, std::move(shape));
  }
  if (!open.empty()) refuse_open(open);
}

/// @pre require_bound() has passed.
std::vector<int64_t> Importer::input_dims(const DeclaredValue& input) {
  if (const auto forced = forced_inputs_.find(input.name); forced != forced_inputs_.end()) return forced->second;
  if (!input.has_shape) return options_.input_shapes.at(input.name);
  std::vector<int64_t> dims;
  for (size_t i = 0; i < input.dims.size(); ++i) {
    dims.push_back(*input_dim(input, i));
    if (dims.back() < 0)
      throw Error(ErrorId::M004, input_where(input), fmt::format("dimension {} is {}", i, dims.back()));
  }
  return dims;
}

void Importer::add_known_input(const DeclaredValue& input, const Literal& literal) {
  bool agrees = input.dtype == literal.dtype() &&
                (!input.has_shape || static_cast<int>(input.dims.size()) == literal.shape().rank());
  for (size_t i = 0; agrees && i < input.dims.size(); ++i) {
    const int64_t dim = literal.shape()[static_cast<int>(i)];
    if (input.dims[i].value >= 0) agrees = input.dims[i].value == dim;
    if (!input.dims[i].symbol.empty()) agrees = dims_.emplace(input.dims[i].symbol, dim).first->second == dim;
  }
  if (!agrees)
    throw Error(
        ErrorId::M004, input_where(input),
        fmt::format("the content given is {}, the model says otherwise", type_text(literal.dtype(), literal.shape())));
  names_[input.name] = add_literal(input.name, literal);
}

void Importer::add_outputs() {
  for (const DeclaredValue& output : data_.info.outputs) {
    const Slot slot = lookup(output.name);
    if (slot == kAbsent || slots_[static_cast<size_t>(slot)].is_unsupported) continue;
    const auto declared = declared_types_.find(output.name);
    if (declared != declared_types_.end() && declared->second != to_onnx_type(type(slot).dtype)) {
      throw Error(
          ErrorId::M034, "output \"" + output.name + "\"",
          fmt::format("is declared as {}, it is {}", onnx_type_text(declared->second), dtype_name(type(slot).dtype)));
    }
    graph_.outputs.push_back({output.name, value(slot)});
  }
}

void Importer::throw_unsupported() const {
  const UnsupportedNode& first = unsupported_.front();
  if (unsupported_.size() == 1)
    throw Error(unsupported_ids_.front(), fmt::format("node \"{}\" ({})", first.node, first.op), first.reason);
  constexpr size_t kShown = 12;
  std::vector<std::string> names;
  for (size_t i = 0; i < unsupported_.size() && i < kShown; ++i) {
    names.push_back(fmt::format("\"{}\" ({}): {}", escaped(unsupported_[i].node, 60), escaped(unsupported_[i].op, 40),
                                escaped(unsupported_[i].reason, 80)));
  }
  if (unsupported_.size() > kShown) names.push_back(fmt::format("and {} more", unsupported_.size() - kShown));
  const bool has_unknown_op = std::ranges::find(unsupported_ids_, ErrorId::M040) != unsupported_ids_.end();
  throw Error(has_unknown_op ? ErrorId::M040 : unsupported_ids_.front(), "",
              fmt::format("{} nodes are not supported: {}", unsupported_.size(), fmt::join(names, "; ")));
}

namespace {

/// Running statistics are updated in place. Two nodes that update one parameter, or a second node that reads it (its
/// gradient may, after the update), would need another copy of it within the micro-batch, which the IR does not have.
/// @throws Error(M046) naming both nodes.
void refuse_shared_updates(const Graph& graph) {
  IdMap<ValueId, NodeId> updated_by;
  const auto refuse = [&](NodeId other, ValueId shared) {
    throw Error(ErrorId::M046, "node " + graph.node(other).origin,
                fmt::format("uses \"{}\", which node {} updates in the same step", graph.value(shared).name,
                            graph.node(updated_by[shared]).origin),
                "give each of them a tensor of its own");
  };
  for (int n = 0; n < graph.node_count(); ++n) {
    const Node& node = graph.node(NodeId(n));
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const auto over = aliased_input(node.op, static_cast<int>(i));
      if (!over || !node.outputs[i].is_valid()) continue;
      const ValueId old = node.inputs[static_cast<size_t>(*over)];
      if (updated_by[old].is_valid()) refuse(NodeId(n), old);
      updated_by[old] = NodeId(n);
      if (std::ranges::count(node.inputs, old) > 1) refuse(NodeId(n), old);
    }
  }
  for (int n = 0; n < graph.node_count(); ++n) {
    for (const ValueId input : graph.node(NodeId(n)).inputs) {
      if (input.is_valid() && updated_by[input].is_valid() && updated_by[input] != NodeId(n)) refuse(NodeId(n), input);
    }
  }
}

}  // namespace

Graph Model::import(const ImportOptions& options, const Evaluator& evaluator) const {
  try {
    Importer importer(*data_, options, evaluator);
    Graph graph;
    try {
      graph = importer.run();
    } catch (const Error& error) {
      if (error.id() != ErrorId::M032 || !importer.mismatch()) throw;
      const std::string fitting = fitting_input(*data_, options, evaluator, importer);
      if (fitting.empty()) throw;
      throw Error(error.id(), error.where(), error.what_happened(),
                  fmt::format("{}{}{} fits", error.hint(), error.hint().empty() ? "" : "; ", fitting));
    }
    if (!importer.unsupported().empty()) importer.throw_unsupported();
    refuse_shared_updates(graph);
    return graph;
  } catch (const Error& error) {
    throw error.with_prefix(data_->info.path);
  }
}

std::vector<UnsupportedNode> Model::unsupported(const ImportOptions& options, const Evaluator& evaluator) const {
  try {
    Importer importer(*data_, options, evaluator);
    importer.run();
    return importer.unsupported();
  } catch (const Error& error) {
    throw error.with_prefix(data_->info.path);
  }
}

}  // namespace mpc::onnx_io
