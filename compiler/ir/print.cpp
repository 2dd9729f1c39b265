#include "compiler/ir/print.h"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/base/text.h"
#include "compiler/ir/text_form.h"

namespace mpc {
namespace {

using text_form::kMostInlineElements;

std::string name_text(std::string_view name) {
  return text_form::is_bare_name(name) ? std::string(name) : in_quotes(name);
}

// A float attribute keeps a sign that it is one: "1.0", not "1".
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  std::string text = number_text(value);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

template <class T, class Format>
std::string list_text(const std::vector<T>& items, std::string_view empty, Format format) {
  if (items.empty()) return std::string(empty);
  std::string out = "[";
  for (size_t i = 0; i < items.size(); ++i) out += (i == 0 ? "" : ", ") + format(items[i]);
  return out + "]";
}

struct AttributePrinter {
  std::string operator()(int64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const { return float_text(value); }
  std::string operator()(const std::string& value) const { return in_quotes(value); }
  std::string operator()(const std::vector<int64_t>& values) const { return list_text(values, "[]", *this); }
  std::string operator()(const std::vector<double>& values) const { return list_text(values, "numbers[]", *this); }
  std::string operator()(const std::vector<std::string>& values) const { return list_text(values, "texts[]", *this); }
};

// The shortest text that reads back as the same bits, or nothing (the payload of a NaN has no text).
std::optional<std::string> element_text(DType dtype, std::span<const std::byte> element) {
  const auto is_exact = [&](const std::string& text) {
    std::array<std::byte, 8> again{};
    return text_form::write_element(dtype, text, again.data()) &&
           std::equal(element.begin(), element.end(), again.begin());
  };
  if (!is_float(dtype)) {
    std::string text = std::to_string(read_integer(dtype, element.data()));
    if (dtype == DType::u64) text = std::to_string(static_cast<uint64_t>(read_integer(dtype, element.data())));
    if (dtype == DType::boolean) text = text == "0" ? "false" : "true";
    return is_exact(text) ? std::optional(text) : std::nullopt;
  }
  const double value = read_number(dtype, element.data());
  std::array<char, 40> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), static_cast<float>(value)).ptr;
  for (const std::string& text : {std::string(buffer.data(), end), number_text(value)}) {
    if (is_exact(text)) return text;
  }
  return std::nullopt;
}

std::string base64_text(std::span<const std::byte> bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t word = 0;
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    for (size_t j = 0; j < 3; ++j) word = (word << 8) | (j < count ? static_cast<uint32_t>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j) out += j <= count ? text_form::kBase64Digits[(word >> (18 - 6 * j)) & 63] : '=';
  }
  return out;
}

// The elements as text, or nothing when there are many or one of them has no exact text.
std::optional<std::string> elements_text(const Literal& literal) {
  const auto bytes = literal.stored();
  const size_t element_bytes = static_cast<size_t>(dtype_bytes(literal.dtype()));
  if (bytes.size() / element_bytes > kMostInlineElements) return std::nullopt;
  const bool is_list = !literal.is_splat() && literal.shape().rank() != 0;
  std::string out = is_list ? "[" : "";
  for (size_t i = 0; i < bytes.size(); i += element_bytes) {
    const auto element = element_text(literal.dtype(), bytes.subspan(i, element_bytes));
    if (!element) return std::nullopt;
    out += (i == 0 ? "" : ", ") + *element;
  }
  return is_list ? out + "]" : out;
}

std::string literal_text(const Literal& literal) {
  const auto bytes = literal.stored();
  if (bytes.empty() && literal.shape().elements() != 0) return "none";  // no graph that verifies holds one
  const auto elements = elements_text(literal);
  return (literal.is_splat() ? "splat " : "") + (elements ? *elements : "base64 \"" + base64_text(bytes) + "\"");
}

class Printer {
 public:
  explicit Printer(const Graph& graph) : graph_(graph) {}

  std::string text() {
    line("graph {} {}", name_text(graph_.name), stage_name(graph_.stage));
    // In the order of value ids, so that reading the text makes the same ids again.
    size_t next = 0;
    for (const Node& node : graph_.nodes()) {
      for (const ValueId output : node.outputs) {
        if (is_known(output)) free_values(next, output.index());
      }
      node_line(node);
    }
    free_values(next, graph_.values().size());
    results();
    return std::move(out_);
  }

 private:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_ += '\n';
  }

  // Dumps are for graphs that are wrong, too: an id out of range prints as one that cannot be read back.
  bool is_known(ValueId id) const { return id.is_valid() && id.index() < graph_.values().size(); }
  std::string value_text(ValueId id) const {
    if (!id.is_valid()) return "_";
    return is_known(id) ? "%" + name_text(graph_.value(id).name) : fmt::format("?value{}", id.index());
  }
  std::string anchor_text(NodeId id) const {
    return id.index() < graph_.nodes().size() ? "@" + name_text(graph_.node(id).name)
                                              : fmt::format("?node{}", id.index());
  }

  void free_values(size_t& next, size_t end) {
    for (; next < end; ++next) {
      const Value& value = graph_.values()[next];
      if (value.kind != ValueKind::node) free_value(value);
    }
  }

  void free_value(const Value& value) {
    std::string text = fmt::format("{} %{} {}", value_kind_name(value.kind), name_text(value.name),
                                   type_text(value.dtype, value.shape));
    switch (value.kind) {
      case ValueKind::input:
        if (value.rate == Rate::per_step) text += " per_step";
        break;
      case ValueKind::parameter:
        text += fmt::format(" from {}{}", in_quotes(value.source), value.trainable ? "" : " frozen");
        if (!value.recipe.is_empty()) text += recipe_text(value.recipe);
        break;
      case ValueKind::state:
      case ValueKind::constant:
        text += " = " + literal_text(value.literal);
        break;
      case ValueKind::node:
        break;
    }
    line("{}", text);
  }

  // After the source: ` made ("q" [8,8] [1,0], "k" [8,8] []) axis 1 perm [] origins []`.
  static std::string recipe_text(const WeightRecipe& recipe) {
    std::string text = " made (";
    for (const WeightPart& part : recipe.parts) {
      text += fmt::format("{}{} [{}] [{}]", text.ends_with("(") ? "" : ", ", in_quotes(part.source),
                          fmt::join(part.shape.dims(), ","), fmt::join(part.perm, ","));
    }
    text += fmt::format(") axis {} perm [{}] origins [", recipe.axis, fmt::join(recipe.perm, ","));
    for (const std::string& origin : recipe.origins) text += (text.ends_with("[") ? "" : ", ") + in_quotes(origin);
    return text + "]";
  }

  void node_line(const Node& node) {
    std::string text = node.outputs.empty() ? "()" : "";
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (i != 0) text += ", ";
      text += value_text(node.outputs[i]);
      if (!is_known(node.outputs[i])) continue;
      const Value& value = graph_.value(node.outputs[i]);
      text += " " + type_text(value.dtype, value.shape);
      if (value.rate != node.rate) text += value.rate == Rate::per_step ? " per_step" : " per_microbatch";
    }
    text += fmt::format(" = {}(", op_name(node.op));
    for (size_t i = 0; i < node.inputs.size(); ++i) text += (i == 0 ? "" : ", ") + value_text(node.inputs[i]);
    text += ")";
    if (!node.attributes.empty()) text += " " + attributes_text(node.attributes);
    text += " @" + name_text(node.name);
    if (node.phase != Phase::forward) text += fmt::format(" phase {}", phase_name(node.phase));
    if (node.rate == Rate::per_step) text += " per_step";
    if (node.anchor.is_valid()) text += " anchor " + anchor_text(node.anchor);
    if (node.device.is_valid()) text += fmt::format(" device {}", node.device.index());
    if (!node.origin.empty()) text += " origin " + in_quotes(node.origin);
    line("{}", text);
  }

  static std::string attributes_text(const Attributes& attributes) {
    std::string text = "{";
    for (const auto& [name, value] : attributes.items()) {
      if (text.size() > 1) text += ", ";
      text += name_text(name) + " = " + std::visit(AttributePrinter(), value);
    }
    return text + "}";
  }

  void results() {
    std::vector<ValueId> in_order;
    for (size_t i = 0; i < graph_.values().size(); ++i) {
      if (graph_.values()[i].kind == ValueKind::input) in_order.emplace_back(i);
    }
    if (in_order != graph_.inputs)
      line("inputs {}", list_text(graph_.inputs, "[]", [&](ValueId id) { return value_text(id); }));
    for (const NamedValue& output : graph_.outputs)
      line("output {} = {}", name_text(output.name), value_text(output.value));
    if (graph_.loss.is_valid()) line("loss {}", value_text(graph_.loss));
    for (const ParameterGradient& g : graph_.gradients)
      line("gradient {} -> {}", value_text(g.parameter), value_text(g.gradient));
    for (const Update& update : graph_.updates)
      line("update {} -> {}", value_text(update.persistent), value_text(update.next));
  }

  const Graph& graph_;
  std::string out_;
};

}  // namespace

std::string print(const Graph& graph) {
  return Printer(graph).text();
}

}  // namespace mpc
