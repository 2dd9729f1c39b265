#pragma once

// The texts of the headers that generated code includes, carried in the plugin (nvrtc_headers.cpp.in).

namespace mpc::cuda {

extern const char kBinaryHeader[];
extern const char kHalfHeader[];
extern const char kParametersHeader[];
extern const char kStandardHeader[];
extern const char kUnaryHeader[];

}  // namespace mpc::cuda
