#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "compiler/onnx/external_data.h"
#include "compiler/onnx/model.h"
#include "compiler/onnx/proto.h"

namespace mpc::onnx_io {

/// The newest opset of the default domain that compiler/ops implements.
inline constexpr int64_t kNewestOpset = 27;

/// Versions by canonical domain.
using Opsets = std::map<std::string, int64_t, std::less<>>;
using NodeList = google::protobuf::RepeatedPtrField<pb::NodeProto>;

/// The opset imports of a model or function. @throws Error(M021) on a missing, conflicting or non-positive version.
Opsets opsets_of(const google::protobuf::RepeatedPtrField<pb::OperatorSetIdProto>& imports, const std::string& where);

/// What identifies a function: domain, name and overload.
std::string function_key(const pb::FunctionProto& function);
/// The key of the function that `node` would call.
std::string function_key(const pb::NodeProto& node);

/// Checks everything about a parsed model that needs no shapes: header, names, single assignment, undefined values,
/// cycles, arity and attributes against the ONNX schemas, functions, tensors in attributes, and every limit that is not
/// about one of those. Contents of the main graph's initializers are not looked at. Recursion is bounded by `limits`.
/// @throws Error(M021..M025, M031, M042, M046, M051, and those of ExternalFiles).
void check_model(const pb::ModelProto& model, const Limits& limits, ExternalFiles& files);

/// Positions of `nodes` in an order in which every operand is made before it is used: the order of the file when it is
/// one, else the nearest. @throws Error(M022) naming a node of a cycle. O(N + E).
std::vector<int> topological_order(const NodeList& nodes, const std::string& where);

/// Calls `visit` with every name that the graph, or one inside it, reads but does not make itself. @pre check_model.
void for_each_captured_name(const pb::GraphProto& graph, const std::function<void(const std::string&)>& visit);

}  // namespace mpc::onnx_io
