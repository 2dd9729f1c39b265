#include "compiler/onnx/import_rules.h"

#include <algorithm>

namespace mpc::onnx_io {
namespace {

struct Row {
  std::string_view op;
  ImportRule rule;
};

// Sorted by name.
constexpr Row kRules[] = {
    {"Add", rules::broadcasting},
    {"And", rules::broadcasting},
    {"BatchNormalization", rules::batch_normalization},
    {"Cast", rules::cast},
    {"CastLike", rules::cast_like},
    {"Clip", rules::clip},
    {"Concat", rules::concat},
    {"Constant", rules::constant},
    {"ConstantOfShape", rules::constant_of_shape},
    {"ConvTranspose", rules::conv_transpose},
    {"DepthToSpace", rules::depth_to_space},
    {"Div", rules::broadcasting},
    {"Dropout", rules::dropout},
    {"Einsum", rules::einsum},
    {"Equal", rules::broadcasting},
    {"EyeLike", rules::eye_like},
    {"Flatten", rules::flatten},
    {"Gemm", rules::gemm},
    {"GlobalAveragePool", rules::global_pool},
    {"GlobalLpPool", rules::global_pool},
    {"GlobalMaxPool", rules::global_pool},
    {"Greater", rules::broadcasting},
    {"Hardmax", rules::hardmax},
    {"Identity", rules::identity},
    {"If", rules::if_then_else},
    {"InstanceNormalization", rules::instance_normalization},
    {"Less", rules::broadcasting},
    {"LogSoftmax", rules::softmax},
    {"MatMul", rules::matmul},
    {"Max", rules::max},
    {"Mean", rules::mean},
    {"Min", rules::min},
    {"Mul", rules::broadcasting},
    {"Or", rules::broadcasting},
    {"PRelu", rules::broadcasting},
    {"Pad", rules::pad},
    {"Pow", rules::broadcasting},
    {"RNN", rules::rnn},
    {"Range", rules::range},
    {"Reshape", rules::reshape},
    {"Resize", rules::resize},
    {"Scatter", rules::scatter},
    {"Shape", rules::shape},
    {"Size", rules::size},
    {"Softmax", rules::softmax},
    {"SpaceToDepth", rules::space_to_depth},
    {"Split", rules::split},
    {"Squeeze", rules::squeeze},
    {"Sub", rules::broadcasting},
    {"Sum", rules::sum},
    {"Tile", rules::tile},
    {"Unsqueeze", rules::unsqueeze},
    {"Upsample", rules::upsample},
    {"Xor", rules::broadcasting},
};
static_assert(std::ranges::is_sorted(kRules, {}, &Row::op));

}  // namespace

ImportRule find_import_rule(std::string_view op) {
  const auto row = std::ranges::lower_bound(kRules, op, {}, &Row::op);
  return row != std::end(kRules) && row->op == op ? row->rule : nullptr;
}

}  // namespace mpc::onnx_io
