#include "compiler/ops/window.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/base/channels_last.h"
#include "compiler/base/checked.h"

namespace mpc::ops {
namespace {

// Far beyond every tensor (kMaxTensorBytes), so that sums of a few such numbers cannot overflow.
constexpr int64_t kMaxExtent = int64_t{1} << 48;

/// The list, or `count` times `fill` when it is absent. Every entry is in [low, kMaxExtent].
std::vector<int64_t> read_list(const InferContext& context, std::string_view name, size_t count, int64_t fill,
                               int64_t low) {
  if (!context.attributes().has(name)) return std::vector<int64_t>(count, fill);
  std::vector<int64_t> list = context.attributes().integers(name);
  if (list.empty()) return std::vector<int64_t>(count, fill);
  if (list.size() != count) {
    context.fail(ErrorId::M031, fmt::format("{} has {} entries, {} are needed", name, list.size(), count));
  }
  for (size_t i = 0; i < count; ++i) {
    if (list[i] < low || list[i] > kMaxExtent) {
      context.fail(ErrorId::M031, fmt::format("{}[{}] is {}, must be {} to 2^48", name, i, list[i], low));
    }
  }
  return list;
}

enum class AutoPad : uint8_t { notset, same_upper, same_lower, valid };

AutoPad read_auto_pad(const InferContext& context) {
  if (!context.attributes().has("auto_pad")) return AutoPad::notset;
  const std::string& text = context.attributes().text("auto_pad");
  if (text == "NOTSET" || text.empty()) return AutoPad::notset;
  if (text == "SAME_UPPER") return AutoPad::same_upper;
  if (text == "SAME_LOWER") return AutoPad::same_lower;
  if (text == "VALID") return AutoPad::valid;
  context.fail(ErrorId::M031, fmt::format("auto_pad '{}' is not known", escaped(text, 40)),
               "use NOTSET, SAME_UPPER, SAME_LOWER or VALID");
}

/// Pads such that the result has ceil(extent / stride) entries; the odd one goes to the end for SAME_UPPER.
std::pair<int64_t, int64_t> same_pads(AutoPad mode, int64_t extent, int64_t span, int64_t stride) {
  if (extent == 0) return {0, 0};
  const int64_t windows = (extent - 1) / stride + 1;
  const int64_t total = std::max<int64_t>((windows - 1) * stride + span - extent, 0);
  const int64_t smaller = total / 2;
  if (mode == AutoPad::same_upper) return {smaller, total - smaller};
  return {total - smaller, smaller};
}

}  // namespace

std::vector<AttributeSpec> window_attributes() {
  return {
      {"auto_pad", AttributeType::text, {}, true},         {"dilations", AttributeType::integers, {}, true},
      {"kernel_shape", AttributeType::integers, {}, true}, {"pads", AttributeType::integers, {}, true},
      {"strides", AttributeType::integers, {}, true},
  };
}

std::vector<AttributeSpec> join(std::vector<AttributeSpec> first, const std::vector<AttributeSpec>& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

AttributeSpec channels_last_attribute() {
  return {.name = kChannelsLast, .type = AttributeType::integer, .is_optional = true};
}

std::vector<int64_t> stored_dims(const InferContext& context, std::vector<int64_t> dims) {
  if (is_channels_last(context.attributes())) std::rotate(dims.begin() + 1, dims.begin() + 2, dims.end());
  return dims;
}

std::vector<int64_t> resolve_window(InferContext& context, const Shape& x, const std::vector<int64_t>& kernel,
                                    WindowRounding rounding) {
  const size_t rank = static_cast<size_t>(x.rank() - 2);
  if (kernel.size() != rank) {
    context.fail(ErrorId::M032, fmt::format("the kernel ({}) has {} dimensions, the tensor {} has {} spatial ones",
                                            fmt::join(kernel, ", "), kernel.size(), to_string(x), rank));
  }
  const std::vector<int64_t> strides = read_list(context, "strides", rank, 1, 1);
  const std::vector<int64_t> dilations = read_list(context, "dilations", rank, 1, 1);
  std::vector<int64_t> pads = read_list(context, "pads", 2 * rank, 0, 0);
  const AutoPad auto_pad = read_auto_pad(context);
  if (auto_pad != AutoPad::notset) pads.assign(2 * rank, 0);

  std::vector<int64_t> result(rank);
  for (size_t i = 0; i < rank; ++i) {
    const int64_t extent = x[static_cast<int>(i) + 2];
    if (kernel[i] < 1 || kernel[i] > kMaxExtent) {
      context.fail(ErrorId::M031, fmt::format("the kernel's dimension {} is {}, must be 1 or more", i, kernel[i]));
    }
    const auto reach = checked_mul(kernel[i] - 1, dilations[i]);
    if (!reach || *reach > kMaxExtent) context.fail(ErrorId::M031, fmt::format("dilations[{}] is too large", i));
    const int64_t span = *reach + 1;
    if (auto_pad == AutoPad::same_upper || auto_pad == AutoPad::same_lower) {
      std::tie(pads[i], pads[rank + i]) = same_pads(auto_pad, extent, span, strides[i]);
      result[i] = extent == 0 ? 0 : (extent - 1) / strides[i] + 1;
      continue;
    }
    const int64_t room = extent + pads[i] + pads[rank + i] - span;
    if (room < 0) {
      context.fail(ErrorId::M032,
                   fmt::format("the window spans {} in spatial dimension {}, the tensor with its pads has only {}",
                               span, i, room + span));
    }
    result[i] = room / strides[i] + 1;
    if (rounding == WindowRounding::ceil) {
      if (room % strides[i] != 0) ++result[i];
      // A window that begins in the pads at the end does not count, be it a whole one.
      if ((result[i] - 1) * strides[i] >= extent + pads[i]) --result[i];
    }
  }
  context.erase_attribute("auto_pad");
  context.set_attribute("dilations", dilations);
  context.set_attribute("kernel_shape", kernel);
  context.set_attribute("pads", pads);
  context.set_attribute("strides", strides);
  return result;
}

Shape shape_attribute(const InferContext& context, std::string_view name, DType dtype) {
  const std::vector<int64_t>& dims = context.attributes().integers(name);
  for (const int64_t dim : dims) {
    if (dim < 0) context.fail(ErrorId::M031, fmt::format("{} has a dimension of {}", name, dim));
  }
  if (dims.size() > kMaxRank) {
    context.fail(ErrorId::M046, fmt::format("{} has rank {}, at most {} is supported", name, dims.size(), kMaxRank));
  }
  const auto shape = checked_shape(dims, dtype);
  if (!shape) context.fail(ErrorId::M051, fmt::format("{} describes a tensor of 2^47 bytes or more", name));
  return *shape;
}

}  // namespace mpc::ops
