#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compiler/onnx/proto.h"

namespace mpc::onnx_io {

/// Gives a name that no value of the model has, based on the one it is given.
using NameMaker = std::function<std::string(const std::string&)>;

/// The nodes that stand for a call of `function`: parameters replaced by the caller's values, attributes by the
/// caller's (or the function's defaults), every other value renamed to `prefix`/its name through `unique_name`, nodes
/// named `prefix`/their name, in an order in which operands come before their use. Ends with Identity nodes where an
/// output of the function is one of its parameters. @pre check_model, or a function of ONNX itself. @throws Error(M025)
/// when an attribute has another type than its use.
std::vector<pb::NodeProto> expand_call(const pb::NodeProto& call, const pb::FunctionProto& function,
                                       const std::string& prefix, const NameMaker& unique_name);

}  // namespace mpc::onnx_io
