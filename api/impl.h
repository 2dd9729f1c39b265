#pragma once

#include <string>
#include <vector>

#include "compiler/base/literal.h"
#include "compiler/cost/cluster.h"
#include "compiler/onnx/model.h"
#include "compiler/plan/plan.h"
#include "mpc/cluster.h"
#include "mpc/compile.h"
#include "mpc/model.h"
#include "mpc/plan.h"
#include "mpc/tensor.h"
#include "passes/pipeline.h"

// What stands behind the public types, and the conversions between them and mpc's own.

namespace mpc {

struct v1::Model::Impl {
  onnx_io::Model model;
};

struct v1::Cluster::Impl {
  mpc::Cluster cluster;
};

struct v1::Plan::Impl {
  mpc::Plan plan;
};

namespace api {

/// @throws Error(M003) where a search cannot take that long.
void require_budget(double seconds);
/// @throws Error(M002): `what` has no such name; with the nearest of `known`.
[[noreturn]] void unknown_name(const std::string& what, const std::string& name, const std::vector<std::string>& known);
v1::DType public_dtype(DType dtype);
DType internal_dtype(v1::DType dtype);
v1::Tensor to_tensor(const Literal& literal);
/// @throws Error(M004) when the tensor's bytes do not fit its shape, or it cannot be a tensor of mpc.
Literal to_literal(const v1::Tensor& tensor, const std::string& where);
/// @throws Error(M003, M004) for bindings that cannot be meant.
PlanOptions plan_options(const v1::Bindings& bindings);
/// The same for everything that decides a plan. @throws also Error(M002) for names that mpc does not know.
PlanOptions plan_options(const v1::CompileOptions& options);
/// A public plan around `plan`.
v1::Plan make_public(Plan plan);

}  // namespace api
}  // namespace mpc
