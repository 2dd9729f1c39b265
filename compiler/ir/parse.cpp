#include "compiler/ir/parse.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/ir/lexer.h"
#include "compiler/ir/text_form.h"

namespace mpc {

bool text_form::write_element(DType dtype, std::string_view text, std::byte* out) {
  if (dtype == DType::boolean) {
    write_integer(dtype, out, text == "true");
    return text == "true" || text == "false";
  }
  if (dtype == DType::u64) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    write_integer(dtype, out, static_cast<int64_t>(value));
    return error == std::errc() && end == text.data() + text.size();
  }
  if (!is_float(dtype)) {
    const auto value = parse_integer(text);
    if (!value) return false;
    write_integer(dtype, out, *value);
    return read_integer(dtype, out) == *value;
  }
  const auto value = parse_number(text);
  if (!value) return false;
  write_number(dtype, out, *value);
  return std::isfinite(read_number(dtype, out)) == std::isfinite(*value);
}

namespace {

using text_form::Lexer;

constexpr int64_t kMostDevices = 65'536;

// Reads `[item, item, ...]` after its bracket was read.
template <class Item>
void read_list(Lexer& lexer, std::string_view close, Item item) {
  if (lexer.accept(close)) return;
  do item();
  while (lexer.accept(","));
  lexer.expect(close);
}

Attribute read_scalar_attribute(Lexer& lexer) {
  if (lexer.at_quote()) return lexer.quoted_text();
  const std::string_view text = lexer.expect_word("a number, a quoted text or a list");
  if (const auto integer = parse_integer(text)) return *integer;
  const auto number = parse_number(text);
  const bool is_integer = text.find_first_not_of("-0123456789") == std::string_view::npos;
  if (!number || is_integer) lexer.fail(fmt::format("'{}' is not a number that fits", escaped(text, 40)));
  return *number;
}

template <class T>
Attribute read_list_attribute(Lexer& lexer, T first) {
  std::vector<T> items = {std::move(first)};
  while (lexer.accept(",")) {
    Attribute item = read_scalar_attribute(lexer);
    T* typed = std::get_if<T>(&item);
    if (typed == nullptr) lexer.fail("the elements of a list are of one type (a float has a point: 1.0)");
    items.push_back(std::move(*typed));
  }
  lexer.expect("]");
  return items;
}

Attribute read_attribute(Lexer& lexer) {
  if (lexer.accept("numbers[]")) return std::vector<double>();
  if (lexer.accept("texts[]")) return std::vector<std::string>();
  if (!lexer.accept("[")) return read_scalar_attribute(lexer);
  if (lexer.accept("]")) return std::vector<int64_t>();
  Attribute first = read_scalar_attribute(lexer);
  if (auto* integer = std::get_if<int64_t>(&first)) return read_list_attribute(lexer, *integer);
  if (auto* number = std::get_if<double>(&first)) return read_list_attribute(lexer, *number);
  return read_list_attribute(lexer, std::get<std::string>(std::move(first)));
}

std::vector<std::byte> read_base64(Lexer& lexer, int64_t expected_bytes) {
  const std::string_view text = lexer.raw_quoted();
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  if (text.size() % 4 != 0 || static_cast<int64_t>(text.size() / 4 * 3 - padding) != expected_bytes) {
    lexer.fail(fmt::format("base64 of {} bytes is expected, found {} characters", expected_bytes, text.size()));
  }
  static const auto digits = [] {
    std::array<int8_t, 256> table;
    table.fill(-1);
    for (size_t i = 0; i < 64; ++i)
      table[static_cast<unsigned char>(text_form::kBase64Digits[i])] = static_cast<int8_t>(i);
    return table;
  }();
  std::vector<std::byte> bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t word = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_padding = i + padding >= text.size();
    const int digit = is_padding ? 0 : digits[static_cast<unsigned char>(text[i])];
    if (digit < 0) lexer.fail(fmt::format("'{}' is not a base64 digit", escaped(text.substr(i, 1), 8)));
    word = (word << 6) | static_cast<uint32_t>(digit);
    if (i % 4 == 3) {
      for (const int shift : {16, 8, 0}) bytes.push_back(static_cast<std::byte>(word >> shift));
    }
  }
  bytes.resize(static_cast<size_t>(expected_bytes));
  return bytes;
}

void append_element(Lexer& lexer, DType dtype, std::vector<std::byte>& bytes) {
  const std::string_view text = lexer.expect_word("a number");
  const size_t at = bytes.size();
  bytes.resize(at + static_cast<size_t>(dtype_bytes(dtype)));
  if (!text_form::write_element(dtype, text, bytes.data() + at)) {
    lexer.fail(fmt::format("'{}' is not a value of {}", escaped(text, 40), dtype_name(dtype)));
  }
}

Literal read_literal(Lexer& lexer, DType dtype, const Shape& shape) {
  std::vector<std::byte> bytes;
  if (lexer.accept_word("splat")) {
    if (lexer.accept_word("base64")) {
      bytes = read_base64(lexer, dtype_bytes(dtype));
    } else {
      append_element(lexer, dtype, bytes);
    }
    return Literal::splat(dtype, shape, bytes);
  }
  if (lexer.accept_word("base64")) return Literal(dtype, shape, read_base64(lexer, byte_size(shape, dtype)));
  if (shape.rank() == 0) {
    append_element(lexer, dtype, bytes);
    return Literal(dtype, shape, std::move(bytes));
  }
  lexer.expect("[");
  const size_t begin = lexer.last();
  read_list(lexer, "]", [&] { append_element(lexer, dtype, bytes); });
  if (static_cast<int64_t>(bytes.size()) != byte_size(shape, dtype)) {
    lexer.fail_at(begin, fmt::format("{} has {} elements, {} are listed", type_text(dtype, shape), shape.elements(),
                                     static_cast<int64_t>(bytes.size()) / dtype_bytes(dtype)));
  }
  return Literal(dtype, shape, std::move(bytes));
}

template <class Enum, class Name>
Enum read_enum(Lexer& lexer, std::string_view what, Enum last, Name name) {
  const std::string_view text = lexer.expect_word(what);
  for (int i = 0; i <= static_cast<int>(last); ++i) {
    if (name(static_cast<Enum>(i)) == text) return static_cast<Enum>(i);
  }
  lexer.fail(fmt::format("'{}' is not {}", escaped(text, 40), what));
}

class Parser {
 public:
  Parser(std::string_view text, const TextLimits& limits) : lexer_(text), limits_(limits) {}

  Graph graph() {
    if (!lexer_.next_statement()) lexer_.fail("the text is empty");
    if (!lexer_.accept_word("graph")) lexer_.fail("a graph begins with 'graph NAME STAGE'");
    graph_.name = lexer_.name("the name of the graph");
    graph_.stage = read_enum(lexer_, "a stage", Stage::local, stage_name);
    lexer_.end_statement();
    while (lexer_.next_statement()) {
      statement();
      lexer_.end_statement();
    }
    resolve_anchors();
    return std::move(graph_);
  }

 private:
  struct Type {
    DType dtype;
    Shape shape;
  };
  struct PendingAnchor {
    NodeId node;
    std::string anchor;
    size_t position;
  };

  void statement() {
    const std::string_view word = lexer_.word();
    if (word == "input") return free_value(ValueKind::input);
    if (word == "parameter") return free_value(ValueKind::parameter);
    if (word == "state") return free_value(ValueKind::state);
    if (word == "constant") return free_value(ValueKind::constant);
    if (word == "inputs") return input_order();
    if (word == "output") return output();
    if (word == "loss") return loss();
    if (word == "update") return update();
    if (word == "gradient") return gradient();
    if (word.empty() || word == "_") return node(word == "_");
    lexer_.fail(fmt::format("'{}' begins no statement", escaped(word, 40)));
  }

  Type type() {
    const std::string_view name = lexer_.expect_word("a type");
    const size_t begin = lexer_.last();
    const auto dtype = parse_dtype(name);
    if (!dtype) lexer_.fail(fmt::format("'{}' is not an element type", escaped(name, 40)));
    lexer_.expect("[");
    std::vector<int64_t> dims;
    read_list(lexer_, "]", [&] {
      dims.push_back(lexer_.integer(0, INT64_MAX, "a dimension"));
      if (dims.size() > kMaxRank) lexer_.fail(fmt::format("a shape has at most {} dimensions", kMaxRank));
    });
    const auto shape = checked_shape(dims, *dtype);
    if (!shape) lexer_.fail_at(begin, "the tensor is too large");
    return {*dtype, *shape};
  }

  // The name of a value that is about to be made, after some outputs of its node. @throws when it is taken.
  std::string fresh_value_name(size_t earlier_outputs = 0) {
    std::string name = lexer_.name("the name of a value");
    if (name.empty()) lexer_.fail("a value has a name");
    if (values_.contains(name)) lexer_.fail(fmt::format("the value {} stands twice", in_quotes(name)));
    if (graph_.value_count() + static_cast<int64_t>(earlier_outputs) >= limits_.values)
      lexer_.fail_limit(fmt::format("the graph has more than {} values", limits_.values));
    return name;
  }

  ValueId known_value() {
    lexer_.expect("%");
    const size_t begin = lexer_.last();
    const std::string name = lexer_.name("the name of a value");
    const auto it = values_.find(name);
    if (it == values_.end()) lexer_.fail_at(begin, fmt::format("the value {} is not known here", in_quotes(name)));
    return it->second;
  }

  void free_value(ValueKind kind) {
    lexer_.expect("%");
    std::string name = fresh_value_name();
    const Type of = type();
    ValueId id;
    if (kind == ValueKind::input) {
      id = graph_.add_input(name, of.dtype, of.shape,
                            lexer_.accept_word("per_step") ? Rate::per_step : Rate::per_microbatch);
    } else if (kind == ValueKind::parameter) {
      if (!lexer_.accept_word("from")) lexer_.fail("'from \"SOURCE\"' is expected");
      std::string source = lexer_.quoted_text();
      id = graph_.add_parameter(name, of.dtype, of.shape, std::move(source), !lexer_.accept_word("frozen"));
      if (lexer_.accept_word("made")) graph_.value(id).recipe = recipe(of);
    } else {
      lexer_.expect("=");
      Literal literal = read_literal(lexer_, of.dtype, of.shape);
      id = kind == ValueKind::state ? graph_.add_state(name, std::move(literal))
                                    : graph_.add_constant(name, std::move(literal));
    }
    values_.emplace(std::move(name), id);
  }

  // As compiler/ir/print.cpp writes it; the verifier says what is wrong with it.
  WeightRecipe recipe(const Type& of) {
    const auto integers = [&] {
      lexer_.expect("[");
      std::vector<int64_t> read;
      read_list(lexer_, "]", [&] {
        read.push_back(lexer_.integer(0, INT64_MAX, "a dimension"));
        if (read.size() > kMaxRank) lexer_.fail(fmt::format("a shape has at most {} dimensions", kMaxRank));
      });
      return read;
    };
    WeightRecipe recipe;
    lexer_.expect("(");
    read_list(lexer_, ")", [&] {
      WeightPart part;
      part.source = lexer_.quoted_text();
      const auto shape = checked_shape(integers(), of.dtype);
      if (!shape) lexer_.fail("the tensor is too large");
      part.shape = *shape;
      part.perm = integers();
      recipe.parts.push_back(std::move(part));
    });
    if (recipe.is_empty()) lexer_.fail("a recipe has parts");
    if (!lexer_.accept_word("axis")) lexer_.fail("'axis' is expected");
    recipe.axis = lexer_.integer(0, kMaxRank, "an axis");
    if (!lexer_.accept_word("perm")) lexer_.fail("'perm' is expected");
    recipe.perm = integers();
    if (!lexer_.accept_word("origins")) lexer_.fail("'origins' is expected");
    lexer_.expect("[");
    read_list(lexer_, "]", [&] { recipe.origins.push_back(lexer_.quoted_text()); });
    return recipe;
  }

  // `%y f32[2], _ = Op(%x, _) {a = 1} @name ...`; the first word was read already when it is the `_` of an absent
  // output.
  void node(bool starts_absent) {
    if (graph_.node_count() >= limits_.nodes)
      lexer_.fail_limit(fmt::format("the graph has more than {} nodes", limits_.nodes));
    Node node;
    std::vector<Graph::OutputType> outputs;
    std::vector<std::optional<Rate>> rates;
    std::unordered_set<std::string> names;
    const auto output = [&] {
      if (static_cast<int64_t>(outputs.size()) >= limits_.values_per_node)
        lexer_.fail_limit(fmt::format("a node has at most {} outputs", limits_.values_per_node));
      outputs.emplace_back();
      rates.emplace_back();
      if (std::exchange(starts_absent, false) || lexer_.accept_word("_")) return;
      lexer_.expect("%");
      std::string name = fresh_value_name(outputs.size() - 1);
      if (!names.insert(name).second) lexer_.fail(fmt::format("the value {} stands twice", in_quotes(name)));
      const Type of = type();
      if (lexer_.accept_word("per_step")) {
        rates.back() = Rate::per_step;
      } else if (lexer_.accept_word("per_microbatch")) {
        rates.back() = Rate::per_microbatch;
      }
      outputs.back() = {std::move(name), of.dtype, of.shape, Rate::per_microbatch};
    };
    if (starts_absent || !lexer_.accept("(")) {
      do output();
      while (lexer_.accept(","));
    } else {
      lexer_.expect(")");
    }
    lexer_.expect("=");
    call(node);
    if (node.name.empty()) node.name = outputs.empty() ? "" : outputs.front().name;
    if (node.name.empty()) lexer_.fail("a node without a first output needs a '@NAME'");
    const size_t name_position = lexer_.last();
    std::optional<std::pair<std::string, size_t>> anchor;
    modifiers(node, anchor);
    for (size_t i = 0; i < outputs.size(); ++i) outputs[i].rate = rates[i].value_or(node.rate);
    add(std::move(node), outputs, name_position, std::move(anchor));
  }

  void call(Node& node) {
    const std::string_view op = lexer_.expect_word("an operator");
    const auto kind = find_op(op);
    if (!kind) lexer_.fail(fmt::format("'{}' is not an operator", escaped(op, 40)));
    node.op = *kind;
    lexer_.expect("(");
    read_list(lexer_, ")", [&] {
      if (static_cast<int64_t>(node.inputs.size()) >= limits_.values_per_node)
        lexer_.fail_limit(fmt::format("a node has at most {} operands", limits_.values_per_node));
      node.inputs.push_back(lexer_.accept_word("_") ? ValueId{} : known_value());
    });
    int64_t count = 0;
    if (lexer_.accept("{")) {
      read_list(lexer_, "}", [&] {
        if (++count > limits_.attributes_per_node)
          lexer_.fail_limit(fmt::format("a node has at most {} attributes", limits_.attributes_per_node));
        const std::string name = lexer_.name("the name of an attribute");
        if (name.empty() || node.attributes.has(name))
          lexer_.fail(fmt::format("the attribute {} stands twice or has no name", in_quotes(name)));
        lexer_.expect("=");
        node.attributes.set(name, read_attribute(lexer_));
      });
    }
    if (lexer_.accept("@")) {
      node.name = lexer_.name("the name of a node");
      if (node.name.empty()) lexer_.fail("a node has a name");
    }
  }

  void modifiers(Node& node, std::optional<std::pair<std::string, size_t>>& anchor) {
    std::unordered_set<std::string_view> seen;
    while (!lexer_.at_line_end()) {
      const std::string_view word = lexer_.expect_word("phase, per_step, anchor, device or origin");
      if (!seen.insert(word).second) lexer_.fail(fmt::format("'{}' stands twice", escaped(word, 40)));
      if (word == "phase") {
        node.phase = read_enum(lexer_, "a phase", Phase::update, phase_name);
      } else if (word == "per_step") {
        node.rate = Rate::per_step;
      } else if (word == "anchor") {
        lexer_.expect("@");
        const size_t position = lexer_.last();
        anchor.emplace(lexer_.name("the name of a node"), position);
      } else if (word == "device") {
        node.device = DeviceId(static_cast<uint32_t>(lexer_.integer(0, kMostDevices - 1, "a device")));
      } else if (word == "origin") {
        node.origin = lexer_.quoted_text();
      } else {
        lexer_.fail(fmt::format("'{}' is not one of phase, per_step, anchor, device, origin", escaped(word, 40)));
      }
    }
  }

  void add(Node node, const std::vector<Graph::OutputType>& outputs, size_t position,
           std::optional<std::pair<std::string, size_t>> anchor) {
    const NodeId id(graph_.node_count());
    const auto [it, is_first] = nodes_.try_emplace(node.name, id);
    if (!is_first) lexer_.fail_at(position, fmt::format("the node {} stands twice", in_quotes(node.name)));
    if (anchor) anchors_.push_back({id, std::move(anchor->first), anchor->second});
    graph_.add_node(std::move(node), outputs);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].name.empty()) values_.emplace(outputs[i].name, graph_.node(id).outputs[i]);
    }
  }

  void resolve_anchors() {
    for (const PendingAnchor& pending : anchors_) {
      const auto it = nodes_.find(pending.anchor);
      if (it == nodes_.end())
        lexer_.fail_at(pending.position, fmt::format("there is no node {}", in_quotes(pending.anchor)));
      graph_.node(pending.node).anchor = it->second;
    }
  }

  void input_order() {
    std::vector<ValueId> order;
    lexer_.expect("[");
    const size_t begin = lexer_.last();
    read_list(lexer_, "]", [&] { order.push_back(known_value()); });
    std::vector<ValueId> sorted = order;
    std::ranges::sort(sorted);
    std::vector<ValueId> expected = graph_.inputs;
    std::ranges::sort(expected);
    if (sorted != expected) lexer_.fail_at(begin, "the list must hold every input once");
    graph_.inputs = std::move(order);
  }

  void output() {
    std::string name = lexer_.name("the name of an output");
    if (!output_names_.insert(name).second) lexer_.fail(fmt::format("the output {} stands twice", in_quotes(name)));
    lexer_.expect("=");
    graph_.outputs.push_back({std::move(name), known_value()});
  }

  void loss() {
    if (graph_.loss.is_valid()) lexer_.fail("the loss stands twice");
    graph_.loss = known_value();
  }

  void update() {
    const ValueId persistent = known_value();
    lexer_.expect("->");
    graph_.updates.push_back({persistent, known_value()});
  }

  void gradient() {
    const ValueId parameter = known_value();
    lexer_.expect("->");
    graph_.gradients.push_back({parameter, known_value()});
  }

  Lexer lexer_;
  const TextLimits& limits_;
  Graph graph_;
  // Only looked up, never iterated.
  std::unordered_map<std::string, ValueId> values_;
  std::unordered_map<std::string, NodeId> nodes_;
  std::unordered_set<std::string> output_names_;
  std::vector<PendingAnchor> anchors_;
};

}  // namespace

Graph parse_graph(std::string_view text, const TextLimits& limits) {
  return Parser(text, limits).graph();
}

}  // namespace mpc
