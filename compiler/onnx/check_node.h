#pragma once

#include "compiler/onnx/check.h"

namespace mpc::onnx_io {

/// Checks names, types and tensors of a node's attributes. @throws Error(M020, M023, M031, and those of check_tensor).
void check_attributes(const pb::NodeProto& node, ExternalFiles& files);

/// Checks a node against the ONNX schema of the opset it is written in: arity, which attributes there are and their
/// types. An operator that ONNX does not know is left to the importer.
/// @throws Error(M021: its domain is not imported; M022: arity; M031: attributes; M042: withdrawn in that opset).
void check_against_schema(const pb::NodeProto& node, const Opsets& opsets);

}  // namespace mpc::onnx_io
