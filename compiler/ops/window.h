#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "compiler/ops/op_def.h"

// What Conv and the pools share: a window that moves over the spatial dimensions of a tensor (N, C, d1, d2, ...).

namespace mpc::ops {

/// How many windows fit: all whole ones; or also a last partial one, of which none may begin in the pads at the end.
enum class WindowRounding : uint8_t { floor, ceil };

/// The schema of the attributes `resolve_window` reads: auto_pad, dilations, kernel_shape, pads, strides.
std::vector<AttributeSpec> window_attributes();
/// `first` followed by `more`.
std::vector<AttributeSpec> join(std::vector<AttributeSpec> first, const std::vector<AttributeSpec>& more);

/// The schema of `channels_last`.
AttributeSpec channels_last_attribute();
/// (N, C, d1...) as the node stores it (compiler/base/channels_last.h).
std::vector<int64_t> stored_dims(const InferContext& context, std::vector<int64_t> dims);

/// Checks the window attributes against a tensor of shape `x` and makes them canonical: auto_pad becomes pads and is
/// erased, and absent lists get their defaults. `kernel` is the kernel's shape. @return the spatial dimensions of the
/// result.
/// @throws Error(M031, M032) on lists of wrong length, values out of range, and windows larger than the padded tensor.
std::vector<int64_t> resolve_window(InferContext& context, const Shape& x, const std::vector<int64_t>& kernel,
                                    WindowRounding rounding);

/// An attribute with the dimensions of a tensor as a shape. @throws Error(M031, M051) when it is not one.
Shape shape_attribute(const InferContext& context, std::string_view name, DType dtype);

}  // namespace mpc::ops
