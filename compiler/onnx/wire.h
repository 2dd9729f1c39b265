#pragma once

#include <cstdint>

#include "compiler/base/file.h"
#include "compiler/onnx/proto.h"

namespace mpc::onnx_io {

/// The most messages and strings a model file may hold. A parsed one takes up to a hundred times the two bytes it may
/// take in the file, so that the file's size alone does not bound memory.
inline constexpr int64_t kMaxWireItems = int64_t{32} << 20;

/// Walks the wire format of a file, parsing nothing: bounds what the parser would allocate. Depth is counted, not
/// recursed into. Reads the keys and lengths only, in one pass, O(items).
/// @throws Error(M020) when it is not a protobuf of `type` or is nested more than 100 deep; Error(M051) over
/// `max_items`.
void check_wire(const InputFile& file, const google::protobuf::Descriptor* type, int64_t max_items = kMaxWireItems);

}  // namespace mpc::onnx_io
