#include <algorithm>
#include <unordered_map>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/onnx/functions.h"
#include "compiler/onnx/model_data.h"
#include "compiler/onnx/types.h"

namespace mpc::onnx_io {
namespace {

/// Walks the main graph and replaces calls of model-local functions by their bodies, those of bodies included. The
/// depth and the number of nodes were bounded by check_model.
class Flattener {
 public:
  explicit Flattener(Model::Data& data) : data_(data) {
    for (const auto& function : data.proto.functions()) {
      functions_.emplace(function_key(function), &function);
      data.opsets.push_back(opsets_of(function.opset_import(), "function \"" + function.name() + "\""));
      function_opsets_.emplace(&function, &data.opsets.back());
    }
    data.opsets.push_back(opsets_of(data.proto.opset_import(), "model"));
  }

  void run() {
    const pb::GraphProto& graph = data_.proto.graph();
    collect_value_names(graph);
    const Opsets* opsets = &data_.opsets.back();
    // Names that stand once in the file are kept; the others make room for them.
    std::unordered_map<std::string_view, int> uses;
    for (const auto& node : graph.node()) ++uses[node.name()];
    for (const auto& node : graph.node()) {
      if (!node.name().empty() && uses[node.name()] == 1) node_names_.insert(node.name());
    }
    for (const int position : topological_order(graph.node(), "graph")) {
      const pb::NodeProto& node = graph.node(position);
      const bool keeps_name = !node.name().empty() && uses[node.name()] == 1;
      const std::string name = keeps_name ? node.name() : unique_node_name(first_output(node));
      add(node, name, fmt::format("{} ({})", name, node.op_type()), opsets);
    }
  }

 private:
  void collect_value_names(const pb::GraphProto& graph) {
    for (const auto& input : graph.input()) data_.value_names.insert(input.name());
    for (const auto& tensor : graph.initializer()) data_.value_names.insert(tensor.name());
    for (const auto& sparse : graph.sparse_initializer()) data_.value_names.insert(sparse.values().name());
    for (const auto& node : graph.node()) data_.value_names.insert(node.output().begin(), node.output().end());
  }

  static std::string first_output(const pb::NodeProto& node) {
    for (const std::string& output : node.output()) {
      if (!output.empty()) return output;
    }
    return node.op_type();
  }

  std::string unique_node_name(const std::string& base) {
    std::string name = base;
    for (int i = 1; !node_names_.insert(name).second; ++i) name = fmt::format("{}.{}", base, i);
    return name;
  }

  std::string unique_value_name(const std::string& base) {
    std::string name = base;
    for (int i = 1; !data_.value_names.insert(name).second; ++i) name = fmt::format("{}.{}", base, i);
    return name;
  }

  void add(const pb::NodeProto& node, const std::string& name, const std::string& origin, const Opsets* opsets) {
    const auto function = functions_.find(function_key(node));
    if (function == functions_.end()) {
      data_.nodes.push_back({&node, name, origin, opsets});
      return;
    }
    const auto body =
        expand_call(node, *function->second, name, [this](const std::string& base) { return unique_value_name(base); });
    for (const pb::NodeProto& inner : body) {
      data_.inlined.push_back(inner);
      add(data_.inlined.back(), unique_node_name(inner.name()), origin, function_opsets_.at(function->second));
    }
  }

  Model::Data& data_;
  std::unordered_map<std::string, const pb::FunctionProto*> functions_;
  std::unordered_map<const pb::FunctionProto*, const Opsets*> function_opsets_;
  std::unordered_set<std::string> node_names_;
};

/// How many elements a fill that is operand `position` of `op` must have to be a weight; nothing where networks have no
/// weights. Where formulas have their numbers, one element is a number.
std::optional<int64_t> least_weight_elements(std::string_view op, int position) {
  struct Row {
    std::string_view op;
    int first;
    int last;
    int64_t least_elements;
  };
  constexpr int kAny = 1 << 20;
  static constexpr Row kRows[] = {{"Add", 0, 1, 2},
                                  {"BatchNormalization", 1, 4, 1},
                                  {"Concat", 0, kAny, 2},
                                  {"Conv", 1, 2, 1},
                                  {"ConvTranspose", 1, 2, 1},
                                  {"Expand", 0, 0, 2},
                                  {"GRU", 1, 3, 1},
                                  {"Gather", 0, 0, 1},
                                  {"Gemm", 0, 2, 1},
                                  {"GroupNormalization", 1, 2, 1},
                                  {"InstanceNormalization", 1, 2, 1},
                                  {"LSTM", 1, 3, 1},
                                  {"LayerNormalization", 1, 2, 1},
                                  {"MatMul", 0, 1, 1},
                                  {"Mul", 0, 1, 2},
                                  {"PRelu", 1, 1, 1},
                                  {"RNN", 1, 3, 1},
                                  {"RMSNormalization", 1, 1, 1},
                                  {"Slice", 0, 0, 2},
                                  {"Transpose", 0, 0, 1}};
  for (const Row& row : kRows) {
    if (row.op == op && position >= row.first && position <= row.last) return row.least_elements;
  }
  return std::nullopt;
}

void add_readers(const pb::NodeProto& node, Model::Data& data);

/// The nodes of a graph inside a node; names of the graphs around it are visible there.
void add_readers(const pb::GraphProto& graph, Model::Data& data) {
  for (const auto& node : graph.node()) add_readers(node, data);
  for (const auto& output : graph.output()) data.readers[output.name()].insert("");
}

void add_readers(const pb::NodeProto& node, Model::Data& data) {
  const std::string op = (canonical_domain(node.domain()).empty() ? "" : node.domain() + "::") + node.op_type();
  for (const std::string& input : node.input()) data.readers[input].insert(op);
  for (const auto& attribute : node.attribute()) {
    if (attribute.has_g()) add_readers(attribute.g(), data);
    for (const auto& graph : attribute.graphs()) add_readers(graph, data);
  }
}

const pb::AttributeProto* find_attribute(const pb::NodeProto& node, std::string_view name) {
  for (const auto& attribute : node.attribute()) {
    if (attribute.name() == name) return &attribute;
  }
  return nullptr;
}

}  // namespace

void flatten(Model::Data& data) {
  Flattener(data).run();
}

void find_readers(Model::Data& data) {
  for (const FlatNode& flat : data.nodes) add_readers(*flat.node, data);
  for (const auto& output : data.proto.graph().output()) data.readers[output.name()].insert("");
}

void find_generated_parameters(Model::Data& data) {
  constexpr int64_t kManyElements = 256;  // a constant of that many numbers is data, whoever reads it
  std::unordered_map<std::string_view, std::vector<int64_t>> shapes;
  std::unordered_map<std::string_view, int64_t> weights;  // values read as weights, and how few elements suffice
  for (const FlatNode& flat : data.nodes) {
    for (int i = 0; i < flat.node->input_size(); ++i) {
      const auto least = least_weight_elements(flat.node->op_type(), i);
      if (!least || !canonical_domain(flat.node->domain()).empty()) continue;
      int64_t& lowest = weights.try_emplace(flat.node->input(i), *least).first->second;
      lowest = std::min(lowest, *least);
    }
  }
  // Some exporters write every weight as a Constant. Where one weight is an initializer or a fill, Constants are not
  // meant so.
  std::vector<std::pair<std::string, TensorContent>> constants;
  const auto& initializers = data.proto.graph().initializer();
  bool has_weights = std::ranges::any_of(initializers, [&](const pb::TensorProto& initializer) {
    const TensorContent* content = data.weights.find(initializer.name());
    return content != nullptr && is_float(content->dtype) && content->shape.rank() > 1 &&
           weights.contains(initializer.name());
  });
  const auto is_weight = [&](const std::string& name, int64_t elements) {
    const auto read = weights.find(name);
    return read != weights.end() && elements >= read->second;
  };
  const auto integers_of = [&](const std::string& name) -> std::optional<std::vector<int64_t>> {
    if (const auto it = shapes.find(name); it != shapes.end()) return it->second;
    const TensorContent* content = data.weights.find(name);
    if (content == nullptr || content->dtype != DType::i64 || content->shape.rank() != 1 ||
        content->shape[0] > kMaxRank)
      return std::nullopt;
    return to_literal(*content, data.files.get()).to_integers();
  };
  const auto add = [&](const std::string& name, TensorContent content, bool trainable) {
    data.weights.add(name, std::move(content));
    data.generated.emplace(name, trainable);
    data.generated_names.push_back(name);
  };
  for (const FlatNode& flat : data.nodes) {
    const pb::NodeProto& node = *flat.node;
    const pb::AttributeProto* value = find_attribute(node, "value");
    if (!canonical_domain(node.domain()).empty() || node.output_size() != 1) continue;
    if (node.op_type() == "Constant" && value != nullptr && value->has_t()) {
      const auto content = check_tensor(value->t(), data.files.get(), describe(node));
      if (!content) continue;
      if (content->dtype == DType::i64 && content->shape.rank() == 1 && content->shape[0] <= kMaxRank) {
        shapes[node.output(0)] = to_literal(*content, data.files.get()).to_integers();
      }
      if (is_float(content->dtype) && content->shape.rank() > 0) constants.emplace_back(node.output(0), *content);
    }
    const pb::AttributeProto* list = node.op_type() == "Constant" ? find_attribute(node, "value_ints") : nullptr;
    if (list != nullptr && list->ints_size() <= kMaxRank)
      shapes[node.output(0)] = {list->ints().begin(), list->ints().end()};
    if (node.op_type() != "ConstantOfShape" || node.input_size() != 1) continue;
    const auto dims = integers_of(node.input(0));
    if (!dims || dims->empty()) continue;
    Literal element = Literal::scalar(DType::f32, 0);
    if (value != nullptr && value->has_t()) {
      const auto content = check_tensor(value->t(), data.files.get(), describe(node));
      if (!content || content->shape.elements() != 1) continue;
      element = to_literal(*content, data.files.get());
    }
    const auto shape = checked_shape(*dims, element.dtype());
    const bool is_usable = shape && is_float(element.dtype()) && shape->elements() > 0 &&
                           byte_size(*shape, element.dtype()) <= data.limits.value_bytes;
    if (!is_usable) continue;  // the importer says what is wrong
    const bool is_trained = is_weight(node.output(0), shape->elements());
    if (!is_trained && shape->elements() < kManyElements) continue;
    add(node.output(0),
        TensorContent{element.dtype(), *shape, nullptr, {}, Literal::splat(element.dtype(), *shape, element.stored())},
        is_trained);
    has_weights = has_weights || (is_trained && shape->rank() > 1);
  }
  for (auto& [name, content] : constants) {
    const int64_t elements = content.shape.elements();
    const bool is_trained = !has_weights && is_weight(name, elements);
    if (is_trained || elements >= kManyElements) add(name, std::move(content), is_trained);
  }
}

}  // namespace mpc::onnx_io
