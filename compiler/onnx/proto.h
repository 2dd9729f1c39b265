#pragma once

// The protobuf classes of ONNX, under a short name. Included by the files of this folder only.
#include <onnx/onnx_pb.h>

namespace mpc::onnx_io {

namespace pb = ONNX_NAMESPACE;

}  // namespace mpc::onnx_io
