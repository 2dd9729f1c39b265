#include "compiler/onnx/check.h"

#include <functional>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include <fmt/format.h>

#include "compiler/base/checked.h"
#include "compiler/base/error.h"
#include "compiler/onnx/check_node.h"
#include "compiler/onnx/initializers.h"
#include "compiler/onnx/types.h"

namespace mpc::onnx_io {
namespace {

/// The names that a body of nodes may read: its own and those of the bodies around it.
struct Scope {
  const Scope* parent = nullptr;
  std::unordered_set<std::string_view> names;

  bool sees(std::string_view name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
      if (scope->names.contains(name)) return true;
    }
    return false;
  }
};

class Checker {
 public:
  Checker(const pb::ModelProto& model, const Limits& limits, ExternalFiles& files)
      : model_(model), limits_(limits), files_(files) {}

  void run() {
    header();
    collect_functions();
    graph(model_.graph(), nullptr, opsets_, 0, "graph");
    for (const auto& function : model_.functions()) check_function(function);
    count_expanded_nodes();
  }

 private:
  /// What calls of a function come to: nodes after inlining, and the depth of calls.
  struct Expanded {
    int64_t nodes = 0;
    int depth = 0;
    bool is_open = false;  // being visited: meeting it again is recursion
    bool is_done = false;
  };

  void header() {
    if (model_.ir_version() < 1)
      throw Error(ErrorId::M021, "model", fmt::format("IR version {} does not exist", model_.ir_version()));
    if (model_.ir_version() > pb::Version::IR_VERSION) {
      throw Error(ErrorId::M042, "model",
                  fmt::format("IR version {} is not supported, at most {} is", model_.ir_version(),
                              static_cast<int>(pb::Version::IR_VERSION)));
    }
    if (!model_.has_graph()) throw Error(ErrorId::M022, "model", "there is no graph");
    opsets_ = opsets_of(model_.opset_import(), "model");
    if (model_.graph().output_size() == 0)
      throw Error(ErrorId::M022, "graph", "there are no outputs, nothing would be computed");
  }

  void name(const std::string& text, std::string_view what, const std::string& where) const {
    if (static_cast<int64_t>(text.size()) > limits_.name_bytes) {
      throw Error(ErrorId::M051, where,
                  fmt::format("a {} has {} bytes, at most {} are allowed", what, text.size(), limits_.name_bytes));
    }
    if (!is_utf8(text))
      throw Error(ErrorId::M020, where, fmt::format("the {} '{}' is not valid UTF-8", what, escaped(text, 100)));
  }

  void define(Scope& scope, const std::string& text, const std::string& where) const {
    name(text, "value name", where);
    if (!scope.names.insert(text).second)
      throw Error(ErrorId::M022, where, fmt::format("value '{}' is defined twice", escaped(text, 200)));
  }

  void collect_functions() {
    if (model_.functions_size() > limits_.functions) {
      throw Error(
          ErrorId::M051, "model",
          fmt::format("there are {} functions, at most {} are allowed", model_.functions_size(), limits_.functions));
    }
    for (const auto& function : model_.functions()) {
      const std::string where = fmt::format("function \"{}\"", function.name());
      name(function.name(), "function name", "model");
      name(function.domain(), "domain", where);
      if (function.name().empty()) throw Error(ErrorId::M025, "model", "a function has no name");
      if (!functions_.emplace(function_key(function), &function).second)
        throw Error(ErrorId::M025, where, "is defined twice");
    }
  }

  void check_function(const pb::FunctionProto& function) {
    const std::string where = fmt::format("function \"{}\"", function.name());
    const Opsets opsets = opsets_of(function.opset_import(), where);
    Scope scope;
    for (const std::string& input : function.input()) {
      name(input, "parameter name", where);
      if (input.empty() || !scope.names.insert(input).second)
        throw Error(ErrorId::M025, where, fmt::format("parameter '{}' is empty or there twice", escaped(input, 200)));
    }
    std::unordered_set<std::string_view> attributes;
    for (const std::string& attribute : function.attribute()) {
      if (!attributes.insert(attribute).second)
        throw Error(ErrorId::M025, where, fmt::format("attribute '{}' is there twice", escaped(attribute, 200)));
    }
    for (const auto& attribute : function.attribute_proto()) {
      if (!attributes.insert(attribute.name()).second)
        throw Error(ErrorId::M025, where, fmt::format("attribute '{}' is there twice", escaped(attribute.name(), 200)));
    }
    nodes(function.node(), scope, opsets, 0, where);
    std::unordered_set<std::string_view> outputs;
    for (const std::string& output : function.output()) {
      if (!scope.names.contains(output))
        throw Error(ErrorId::M025, where, fmt::format("output '{}' is never made", escaped(output, 200)));
      if (!outputs.insert(output).second)
        throw Error(ErrorId::M025, where, fmt::format("output '{}' is there twice", escaped(output, 200)));
    }
  }

  void graph(const pb::GraphProto& graph, const Scope* outer, const Opsets& opsets, int depth,
             const std::string& where) {
    if (depth > limits_.subgraph_depth)
      throw Error(ErrorId::M051, where, fmt::format("graphs are nested more than {} deep", limits_.subgraph_depth));
    Scope scope{outer, {}};
    std::unordered_set<std::string_view> inputs;
    for (const auto& input : graph.input()) {
      if (input.name().empty()) throw Error(ErrorId::M022, where, "an input has no name");
      define(scope, input.name(), where);
      inputs.insert(input.name());
    }
    std::unordered_set<std::string_view> initializers;
    const auto initializer = [&](const std::string& text) {
      if (text.empty()) throw Error(ErrorId::M023, where, "an initializer has no name");
      if (!initializers.insert(text).second)
        throw Error(ErrorId::M022, where, fmt::format("initializer '{}' is there twice", escaped(text, 200)));
      if (!inputs.contains(text)) define(scope, text, where);
    };
    for (const auto& tensor : graph.initializer()) {
      initializer(tensor.name());
      if (depth > 0) check_tensor(tensor, &files_, fmt::format("initializer \"{}\"", tensor.name()));
    }
    for (const auto& sparse : graph.sparse_initializer()) initializer(sparse.values().name());
    nodes(graph.node(), scope, opsets, depth, where);
    for (const auto& output : graph.output()) {
      if (output.name().empty()) throw Error(ErrorId::M022, where, "an output has no name");
      name(output.name(), "value name", where);
      if (!scope.sees(output.name()))
        throw Error(ErrorId::M022, where, fmt::format("output '{}' is never made", escaped(output.name(), 200)));
    }
  }

  void nodes(const NodeList& list, Scope& scope, const Opsets& opsets, int depth, const std::string& where) {
    node_count_ += list.size();
    if (node_count_ > limits_.nodes)
      throw Error(ErrorId::M051, where, fmt::format("there are more than {} nodes", limits_.nodes));
    for (const auto& node : list) {
      name(node.name(), "node name", where);
      name(node.op_type(), "operator name", where);
      if (node.op_type().empty()) throw Error(ErrorId::M022, describe(node), "has no operator");
      for (const std::string& output : node.output()) {
        if (!output.empty()) define(scope, output, describe(node));
      }
    }
    for (const auto& node : list) {
      check_one(node, scope, opsets);
      for (const auto& attribute : node.attribute()) {
        if (attribute.has_g()) graph(attribute.g(), &scope, opsets, depth + 1, describe(node));
        for (const auto& inner : attribute.graphs()) graph(inner, &scope, opsets, depth + 1, describe(node));
      }
    }
    topological_order(list, where);
  }

  void check_one(const pb::NodeProto& node, const Scope& scope, const Opsets& opsets) {
    const int64_t values = int64_t{node.input_size()} + node.output_size();
    if (values > limits_.values_per_node)
      throw Error(ErrorId::M051, describe(node),
                  fmt::format("has {} operands and results, at most {} are allowed", values, limits_.values_per_node));
    if (node.attribute_size() > limits_.attributes_per_node) {
      throw Error(
          ErrorId::M051, describe(node),
          fmt::format("has {} attributes, at most {} are allowed", node.attribute_size(), limits_.attributes_per_node));
    }
    for (const std::string& input : node.input()) {
      name(input, "value name", describe(node));
      if (!input.empty() && !scope.sees(input))
        throw Error(ErrorId::M022, describe(node), fmt::format("reads '{}', which is never made", escaped(input, 200)));
    }
    check_attributes(node, files_);
    const auto function = functions_.find(function_key(node));
    if (function != functions_.end()) {
      check_call(node, *function->second);
    } else {
      check_against_schema(node, opsets);
    }
  }

  static void check_call(const pb::NodeProto& node, const pb::FunctionProto& function) {
    if (node.input_size() > function.input_size() || node.output_size() > function.output_size()) {
      throw Error(ErrorId::M025, describe(node),
                  fmt::format("has {} inputs and {} outputs, the function has {} and {}", node.input_size(),
                              node.output_size(), function.input_size(), function.output_size()));
    }
  }

  /// O(functions + nodes): every function is visited once. The recursion is bounded by the limit on call depth.
  const Expanded& expand(const pb::FunctionProto& function, int depth) {
    const std::string where = fmt::format("function \"{}\"", function.name());
    if (depth > limits_.function_call_depth)
      throw Error(ErrorId::M051, where,
                  fmt::format("functions call each other more than {} deep", limits_.function_call_depth));
    Expanded& result = expanded_[&function];
    if (result.is_open) throw Error(ErrorId::M025, where, "calls itself, directly or through others");
    if (result.is_done) return result;
    result.is_open = true;
    int64_t total = 0;
    int deepest = 0;
    for (const auto& node : function.node()) {
      const auto callee = functions_.find(function_key(node));
      if (callee == functions_.end()) {
        ++total;
        continue;
      }
      const Expanded& inner = expand(*callee->second, depth + 1);
      deepest = std::max(deepest, inner.depth);
      total = std::min(limits_.nodes + 1, checked_add(total, inner.nodes).value_or(limits_.nodes + 1));
    }
    result = {total, deepest + 1, false, true};
    if (result.depth > limits_.function_call_depth)
      throw Error(ErrorId::M051, where,
                  fmt::format("functions call each other more than {} deep", limits_.function_call_depth));
    return result;
  }

  void count_expanded_nodes() {
    int64_t total = 0;
    for (const auto& function : model_.functions()) expand(function, 1);
    for (const auto& node : model_.graph().node()) {
      const auto callee = functions_.find(function_key(node));
      total += callee == functions_.end() ? 1 : expand(*callee->second, 1).nodes;
      if (total > limits_.nodes)
        throw Error(ErrorId::M051, "graph",
                    fmt::format("there are more than {} nodes after functions are inlined", limits_.nodes));
    }
  }

  const pb::ModelProto& model_;
  const Limits& limits_;
  ExternalFiles& files_;
  Opsets opsets_;
  int64_t node_count_ = 0;
  std::map<std::string, const pb::FunctionProto*> functions_;
  std::unordered_map<const pb::FunctionProto*, Expanded> expanded_;  // only looked up; references stay valid
};

}  // namespace

Opsets opsets_of(const google::protobuf::RepeatedPtrField<pb::OperatorSetIdProto>& imports, const std::string& where) {
  Opsets opsets;
  for (const auto& import : imports) {
    const std::string domain(canonical_domain(import.domain()));
    if (import.version() < 1)
      throw Error(
          ErrorId::M021, where,
          fmt::format("opset version {} of domain '{}' does not exist", import.version(), escaped(domain, 100)));
    const auto [it, is_new] = opsets.emplace(domain, import.version());
    if (!is_new && it->second != import.version()) {
      throw Error(ErrorId::M021, where,
                  fmt::format("domain '{}' is imported with versions {} and {}", escaped(domain, 100), it->second,
                              import.version()));
    }
  }
  if (opsets.empty()) throw Error(ErrorId::M021, where, "imports no opset");
  if (const auto it = opsets.find(""); it != opsets.end() && it->second > kNewestOpset) {
    throw Error(ErrorId::M042, where,
                fmt::format("opset {} is not supported, at most {} is", it->second, kNewestOpset));
  }
  return opsets;
}

std::string function_key(const pb::FunctionProto& function) {
  return fmt::format("{}\x1f{}\x1f{}", canonical_domain(function.domain()), function.name(), function.overload());
}

std::string function_key(const pb::NodeProto& node) {
  return fmt::format("{}\x1f{}\x1f{}", canonical_domain(node.domain()), node.op_type(), node.overload());
}

void check_model(const pb::ModelProto& model, const Limits& limits, ExternalFiles& files) {
  Checker(model, limits, files).run();
}

void for_each_captured_name(const pb::GraphProto& graph, const std::function<void(const std::string&)>& visit) {
  std::unordered_set<std::string_view> own;
  for (const auto& input : graph.input()) own.insert(input.name());
  for (const auto& tensor : graph.initializer()) own.insert(tensor.name());
  for (const auto& node : graph.node()) own.insert(node.output().begin(), node.output().end());
  const auto visit_outer = [&](const std::string& text) {
    if (!text.empty() && !own.contains(text)) visit(text);
  };
  for (const auto& node : graph.node()) {
    for (const std::string& input : node.input()) visit_outer(input);
    for (const auto& attribute : node.attribute()) {
      if (attribute.has_g()) for_each_captured_name(attribute.g(), visit_outer);
      for (const auto& inner : attribute.graphs()) for_each_captured_name(inner, visit_outer);
    }
  }
  for (const auto& output : graph.output()) visit_outer(output.name());
}

std::vector<int> topological_order(const NodeList& nodes, const std::string& where) {
  std::unordered_map<std::string_view, int> producers;
  for (int i = 0; i < nodes.size(); ++i) {
    for (const std::string& output : nodes[i].output()) {
      if (!output.empty()) producers.emplace(output, i);
    }
  }
  std::vector<std::vector<int>> users(static_cast<size_t>(nodes.size()));
  std::vector<int> waits_for(static_cast<size_t>(nodes.size()), 0);
  for (int i = 0; i < nodes.size(); ++i) {
    const auto depend = [&](const std::string& name) {
      const auto it = producers.find(name);
      if (it == producers.end()) return;
      users[static_cast<size_t>(it->second)].push_back(i);
      ++waits_for[static_cast<size_t>(i)];
    };
    for (const std::string& input : nodes[i].input()) depend(input);
    for (const auto& attribute : nodes[i].attribute()) {
      if (attribute.has_g()) for_each_captured_name(attribute.g(), depend);
      for (const auto& inner : attribute.graphs()) for_each_captured_name(inner, depend);
    }
  }
  // The lowest position first: a file in order keeps its order.
  std::priority_queue<int, std::vector<int>, std::greater<>> ready;
  for (int i = 0; i < nodes.size(); ++i) {
    if (waits_for[static_cast<size_t>(i)] == 0) ready.push(i);
  }
  std::vector<int> order;
  while (!ready.empty()) {
    const int next = ready.top();
    ready.pop();
    order.push_back(next);
    for (const int user : users[static_cast<size_t>(next)]) {
      if (--waits_for[static_cast<size_t>(user)] == 0) ready.push(user);
    }
  }
  for (int i = 0; i < nodes.size(); ++i) {
    if (waits_for[static_cast<size_t>(i)] > 0)
      throw Error(ErrorId::M022, where,
                  fmt::format("{} waits for its own result: the graph has a cycle", describe(nodes[i])));
  }
  return order;
}

}  // namespace mpc::onnx_io
