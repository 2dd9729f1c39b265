#pragma once

#include <cstdint>
#include <string_view>

#include "compiler/ir/graph.h"

namespace mpc {

/// Bounds on what a text may ask for.
struct TextLimits {
  int64_t nodes = 1'000'000;
  int64_t values = int64_t{1} << 24;
  int64_t values_per_node = 65'536;  // operands, and outputs
  int64_t attributes_per_node = 1000;
};

/// Reads the text form (docs/ir.md). Types are stated in the text and taken as they are; find_violation() and
/// complete_attributes() check the rest. Hostile text ends in an error. O(bytes).
/// @throws Error(M064) with line and column; Error(M051) beyond a limit.
Graph parse_graph(std::string_view text, const TextLimits& limits = {});

}  // namespace mpc
