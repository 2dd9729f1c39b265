#pragma once

#include <onnx/onnx_pb.h>

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/literal.h"
#include "compiler/onnx/model.h"
#include "tests/unit/helpers.h"

// Small ONNX models for the tests of compiler/onnx.

namespace mpc::test {

namespace pb = ONNX_NAMESPACE;

/// A model written in ONNX's text syntax; @throws std::runtime_error when it is not.
pb::ModelProto parse_model(const std::string& text);
/// The same for a graph of opset 21: `(float[2] x) => (float[2] y) { y = Relu(x) }`.
pb::ModelProto parse_graph(const std::string& graph, int opset = 21);

void write_proto(const google::protobuf::Message& proto, const std::string& path);
void write_bytes(const std::string& path, std::string_view bytes);

/// Writes the model into a folder and loads it.
onnx_io::Model load(const pb::ModelProto& proto, const onnx_io::Limits& limits = {});
/// Loads and imports it.
Graph import(const pb::ModelProto& proto, const onnx_io::ImportOptions& options = {});
Graph import(const onnx_io::Model& model, const onnx_io::ImportOptions& options = {});

/// The ids of the errors that load(), or load() and import(), end with; "none" when they succeed.
std::string load_error(const pb::ModelProto& proto, const onnx_io::Limits& limits = {});
std::string import_error(const pb::ModelProto& proto, const onnx_io::ImportOptions& options = {});
/// The text of the error that import() ends with.
std::string import_message(const pb::ModelProto& proto, const onnx_io::ImportOptions& options = {});

/// The outputs of the graph for inputs by name, computed by the reference kernels; weights come from the model.
std::vector<Literal> run(const onnx_io::Model& model, const Graph& graph, const std::map<std::string, Literal>& inputs);
/// Loads, imports and runs; the numbers of output 0.
std::vector<double> run(const pb::ModelProto& proto, const std::map<std::string, Literal>& inputs,
                        const onnx_io::ImportOptions& options = {});

/// Names of the ops of a graph, in order: "Transpose Reshape".
std::string op_names(const Graph& graph);
/// A f32 literal.
Literal floats(const Shape& shape, const std::vector<double>& numbers);
/// 0, 1, 2, ...
Literal counting(const Shape& shape);

}  // namespace mpc::test
