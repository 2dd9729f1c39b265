#include "mpc/model.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "api/impl.h"
#include "api/reference_evaluator.h"
#include "compiler/base/error.h"
#include "compiler/cost/estimate.h"
#include "compiler/ops/op_def.h"

namespace mpc {
namespace api {

PlanOptions plan_options(const v1::Bindings& bindings) {
  PlanOptions options;
  options.dims = bindings.dims;
  options.input_shapes = bindings.input_shapes;
  for (const auto& [name, tensor] : bindings.known_inputs) {
    options.known_inputs.emplace(name, to_literal(tensor, fmt::format("input \"{}\"", name)));
  }
  options.batch = bindings.batch;
  return options;
}

}  // namespace api

namespace v1 {
namespace {

std::vector<DeclaredTensor> declared(const std::vector<onnx_io::DeclaredValue>& values) {
  std::vector<DeclaredTensor> result;
  for (const onnx_io::DeclaredValue& value : values) {
    DeclaredTensor tensor{value.name, value.dtype ? std::string(dtype_name(*value.dtype)) : "", value.has_shape, {}};
    for (const onnx_io::DeclaredDim& dim : value.dims) {
      tensor.dims.push_back(dim.value >= 0 ? std::to_string(dim.value) : dim.symbol.empty() ? "?" : dim.symbol);
    }
    result.push_back(std::move(tensor));
  }
  return result;
}

std::vector<std::string> open_symbols(const onnx_io::ModelInfo& info, const Bindings& bindings) {
  std::vector<std::string> symbols;
  const auto has_default = [&](const std::string& symbol) { return info.metadata.contains("mpc.default_" + symbol); };
  for (const onnx_io::DeclaredValue& input : info.inputs) {
    if (bindings.input_shapes.contains(input.name)) continue;
    for (const onnx_io::DeclaredDim& dim : input.dims) {
      if (dim.value >= 0 || dim.symbol.empty() || bindings.dims.contains(dim.symbol) || has_default(dim.symbol))
        continue;
      if (std::ranges::find(symbols, dim.symbol) == symbols.end()) symbols.push_back(dim.symbol);
    }
  }
  return symbols;
}

void count_graph(const Graph& graph, ModelReport& report) {
  std::map<OpKind, OpUse> uses;
  for (int i = 0; i < graph.node_count(); ++i) {
    const NodeId id(i);
    const Node& node = graph.node(id);
    OpUse& use = uses[node.op];
    use.op = op_name(node.op);
    use.count += 1;
    use.flops += node_flops(graph, id);
    use.is_differentiable = op_def(node.op).differentiable != Differentiable::no;
    report.flops += node_flops(graph, id);
    for (const ValueId value : node.outputs) {
      if (value.is_valid()) report.activation_bytes += graph.value(value).bytes();
    }
    if (!use.is_differentiable) {
      report.not_differentiable.push_back({node.name, use.op, "mpc has no gradient for it"});
    }
  }
  report.nodes = graph.node_count();
  for (const Value& value : graph.values()) {
    if (value.kind != ValueKind::parameter) continue;
    report.parameters += value.shape.elements();
    report.parameter_bytes += value.bytes();
  }
  for (const auto& [op, use] : uses) report.ops.push_back(use);
  std::ranges::stable_sort(report.ops, [](const OpUse& a, const OpUse& b) { return a.count > b.count; });
}

}  // namespace

Model Model::load(const std::string& path, const Limits& limits) {
  onnx_io::Limits bounds;
  bounds.model_bytes = limits.model_bytes;
  bounds.subgraph_depth = limits.subgraph_depth;
  bounds.function_call_depth = limits.function_call_depth;
  bounds.functions = limits.functions;
  bounds.nodes = limits.nodes;
  bounds.attributes_per_node = limits.attributes_per_node;
  bounds.values_per_node = limits.values_per_node;
  bounds.name_bytes = limits.name_bytes;
  bounds.folded_constant_bytes = limits.folded_constant_bytes;
  bounds.folded_bytes_total = limits.folded_bytes_total;
  bounds.external_root = limits.external_root;
  return Model(std::make_shared<Impl>(Impl{onnx_io::Model::load(path, bounds)}));
}

const std::string& Model::path() const {
  return impl().model.info().path;
}
std::vector<DeclaredTensor> Model::inputs() const {
  return declared(impl().model.info().inputs);
}
std::vector<DeclaredTensor> Model::outputs() const {
  return declared(impl().model.info().outputs);
}

std::optional<Model::Annotation> Model::annotation() const {
  const std::optional<onnx_io::Model::Annotation> stored = impl().model.annotation();
  if (!stored) return std::nullopt;
  return Annotation{stored->configuration_name, stored->device_names, stored->stage_of_node};
}

void Model::check(const Bindings& bindings) const {
  import_graph(impl().model, api::plan_options(bindings), ReferenceEvaluator());
}

ModelReport Model::inspect(const Bindings& bindings) const {
  const onnx_io::Model& model = impl().model;
  const onnx_io::ModelInfo& info = model.info();
  ModelReport report;
  report.path = info.path;
  report.sha256 = info.sha256;
  report.producer = info.producer;
  report.ir_version = info.ir_version;
  report.opset = info.opset;
  report.inputs = declared(info.inputs);
  report.outputs = declared(info.outputs);
  report.metadata = info.metadata;
  report.open_dims = open_symbols(info, bindings);
  const ReferenceEvaluator evaluator;
  const PlanOptions options = api::plan_options(bindings);
  try {
    count_graph(import_graph(model, options, evaluator), report);
    report.is_complete = true;
    return report;
  } catch (const Error& error) {
    if (error.id() == ErrorId::M700) throw;
    report.incomplete_reason = error.what();
  }
  onnx_io::ImportOptions import_options;
  import_options.dims = bindings.dims;
  import_options.input_shapes = bindings.input_shapes;
  import_options.known_inputs = options.known_inputs;
  import_options.batch = bindings.batch;
  try {
    for (const onnx_io::UnsupportedNode& node : model.unsupported(import_options, evaluator)) {
      report.unsupported.push_back({node.node, node.op, node.reason});
    }
  } catch (const Error& error) {
    // Shapes that nothing binds, say: the reason why the report is incomplete stands there already.
    if (error.id() == ErrorId::M700) throw;
  }
  for (const onnx_io::InitializerInfo& initializer : model.initializers()) {
    // Shapes, indices and the numbers of formulas are no parameters; importing would make them constants.
    if (!is_float(initializer.dtype) || initializer.shape.rank() == 0) continue;
    report.parameters += initializer.shape.elements();
    report.parameter_bytes += byte_size(initializer.shape, initializer.dtype);
  }
  std::map<std::string, OpUse> unsupported_ops;
  for (const NodeProblem& node : report.unsupported) {
    OpUse& use = unsupported_ops[node.op];
    use.op = node.op;
    use.count += 1;
    use.is_supported = false;
    use.is_differentiable = false;
  }
  for (const auto& [op, use] : unsupported_ops) report.ops.push_back(use);
  return report;
}

}  // namespace v1
}  // namespace mpc
