#pragma once

#include <string_view>

#include "compiler/onnx/importer.h"

namespace mpc::onnx_io {

/// Imports one ONNX node through the importer. A rule also knows the forms that the op had in older opsets.
using ImportRule = void (*)(Importer&, OnnxNode&);

/// The rule of an ONNX op of the default domain that is not simply the IR op of its name; null when there is none.
ImportRule find_import_rule(std::string_view op);

// Rules by file; the table is in import_rules.cpp.
namespace rules {
// import_rules_constant.cpp: constants, shapes and what folds to them
void identity(Importer&, OnnxNode&);
void if_then_else(Importer&, OnnxNode&);
void constant(Importer&, OnnxNode&);
void constant_of_shape(Importer&, OnnxNode&);
void shape(Importer&, OnnxNode&);
void size(Importer&, OnnxNode&);
void range(Importer&, OnnxNode&);
void eye_like(Importer&, OnnxNode&);
void cast(Importer&, OnnxNode&);
void cast_like(Importer&, OnnxNode&);
// import_rules_einsum.cpp
void einsum(Importer&, OnnxNode&);
// import_rules_layout.cpp: shapes of tensors
void reshape(Importer&, OnnxNode&);
void squeeze(Importer&, OnnxNode&);
void unsqueeze(Importer&, OnnxNode&);
void flatten(Importer&, OnnxNode&);
void depth_to_space(Importer&, OnnxNode&);
void space_to_depth(Importer&, OnnxNode&);
void concat(Importer&, OnnxNode&);
void split(Importer&, OnnxNode&);
void pad(Importer&, OnnxNode&);
void tile(Importer&, OnnxNode&);
void resize(Importer&, OnnxNode&);
void upsample(Importer&, OnnxNode&);
void scatter(Importer&, OnnxNode&);
// import_rules_math.cpp: arithmetic and reductions
void sum(Importer&, OnnxNode&);
void mean(Importer&, OnnxNode&);
void max(Importer&, OnnxNode&);
void min(Importer&, OnnxNode&);
void clip(Importer&, OnnxNode&);
void broadcasting(Importer&, OnnxNode&);
void gemm(Importer&, OnnxNode&);
void matmul(Importer&, OnnxNode&);
void softmax(Importer&, OnnxNode&);
void hardmax(Importer&, OnnxNode&);
// import_rules_nn.cpp: layers
void global_pool(Importer&, OnnxNode&);
void dropout(Importer&, OnnxNode&);
void batch_normalization(Importer&, OnnxNode&);
void instance_normalization(Importer&, OnnxNode&);
void conv_transpose(Importer&, OnnxNode&);
// import_rules_rnn.cpp
void rnn(Importer&, OnnxNode&);
}  // namespace rules

}  // namespace mpc::onnx_io
