#pragma once

#include <optional>
#include <string>
#include <vector>

#include "compiler/ir/graph.h"
#include "compiler/ops/op_def.h"

namespace mpc {

/// Infers a node again and compares with what is stated of it: the attributes must be canonical and each output that is
/// there must have the inferred type. For nodes that come from a file. `where` names the node in errors.
/// @throws as infer_types; Error(M031) for attributes that are not canonical, Error(M034) for another type.
void check_types(OpKind op, const std::string& where, const Attributes& stated,
                 const std::vector<std::optional<TensorType>>& inputs,
                 const std::vector<std::optional<TensorType>>& outputs);

/// Makes a graph that a user wrote one that passes can rely on: attributes get their canonical form (defaults filled
/// in, axes positive); then check_types of every node. @pre find_violation finds nothing. O(N + E). @throws as
/// check_types.
void complete_attributes(Graph& graph);

/// check_types of every node of a graph that passes wrote. O(N + E).
/// @throws Error(M700) naming the first node that differs.
void verify_types(const Graph& graph);

}  // namespace mpc
