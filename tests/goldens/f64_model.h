#pragma once

#include <string>

namespace mpc::test {

/// Rewrites the ONNX file so that everything that was f32 in it is f64: inputs, weights (the same numbers, exactly),
/// constants and the targets of casts. For models of a single graph, with all weights inside the file.
void make_f64(const std::string& path);

}  // namespace mpc::test
