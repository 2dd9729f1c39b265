#pragma once

#include "compiler/onnx/importer.h"

namespace mpc::onnx_io {

/// Checks indices and labels that are known when importing: kernels check those that are not. @throws Error(M033).
void check_constant_indices(const Importer& importer, const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs,
                            const Attributes& attributes);

}  // namespace mpc::onnx_io
