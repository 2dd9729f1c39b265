#include "tests/unit/onnx_support.h"

#include <onnx/defs/parser.h>

#include <fstream>
#include <numeric>
#include <stdexcept>

#include "api/reference_evaluator.h"
#include "tests/support/interpreter.h"

namespace mpc::test {

pb::ModelProto parse_model(const std::string& text) {
  pb::ModelProto model;
  const auto status = pb::OnnxParser::Parse(model, text.c_str());
  if (!status.IsOK()) throw std::runtime_error(status.ErrorMessage());
  return model;
}

pb::ModelProto parse_graph(const std::string& graph, int opset) {
  return parse_model("<ir_version: 10, opset_import: [\"\" : " + std::to_string(opset) + "]> g " + graph);
}

void write_bytes(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
}

void write_proto(const google::protobuf::Message& proto, const std::string& path) {
  write_bytes(path, proto.SerializeAsString());
}

onnx_io::Model load(const pb::ModelProto& proto, const onnx_io::Limits& limits) {
  const TemporaryFolder folder;
  write_proto(proto, folder / "model.onnx");
  return onnx_io::Model::load(folder / "model.onnx", limits);
}

Graph import(const onnx_io::Model& model, const onnx_io::ImportOptions& options) {
  return model.import(options, ReferenceEvaluator());
}
Graph import(const pb::ModelProto& proto, const onnx_io::ImportOptions& options) {
  return import(load(proto), options);
}

std::string load_error(const pb::ModelProto& proto, const onnx_io::Limits& limits) {
  return error_id([&] { load(proto, limits); });
}
std::string import_error(const pb::ModelProto& proto, const onnx_io::ImportOptions& options) {
  return error_id([&] { import(proto, options); });
}
std::string import_message(const pb::ModelProto& proto, const onnx_io::ImportOptions& options) {
  const auto error = error_of([&] { import(proto, options); });
  return error ? error->what() : "none";
}

std::vector<Literal> run(const onnx_io::Model& model, const Graph& graph,
                         const std::map<std::string, Literal>& inputs) {
  Bindings fixed;
  Bindings bound;
  for (int i = 0; i < graph.value_count(); ++i) {
    const Value& value = graph.value(ValueId(i));
    if (value.kind == ValueKind::input) bound.emplace_back(ValueId(i), inputs.at(value.name));
    if (value.kind != ValueKind::parameter) continue;
    std::vector<std::byte> bytes(static_cast<size_t>(value.bytes()));
    model.weights().read(value.source, 0, bytes);
    fixed.emplace_back(ValueId(i), Literal(value.dtype, value.shape, std::move(bytes)));
  }
  const StepValues values = interpret(graph, fixed, {bound});
  std::vector<Literal> outputs;
  for (const NamedValue& output : graph.outputs) outputs.push_back(values.at(graph, output.value));
  return outputs;
}

std::vector<double> run(const pb::ModelProto& proto, const std::map<std::string, Literal>& inputs,
                        const onnx_io::ImportOptions& options) {
  const onnx_io::Model model = load(proto);
  return numbers_of(run(model, import(model, options), inputs).at(0));
}

std::string op_names(const Graph& graph) {
  std::string names;
  for (const Node& node : graph.nodes()) names += (names.empty() ? "" : " ") + std::string(op_name(node.op));
  return names;
}

Literal floats(const Shape& shape, const std::vector<double>& numbers) {
  return literal_of(DType::f32, shape, numbers);
}

Literal counting(const Shape& shape) {
  std::vector<double> numbers(static_cast<size_t>(shape.elements()));
  std::iota(numbers.begin(), numbers.end(), 0);
  return floats(shape, numbers);
}

}  // namespace mpc::test
