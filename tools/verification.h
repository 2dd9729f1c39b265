#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mpc/mpc.h"

namespace mpc::tools {

/// How a model is verified.
struct VerifyOptions {
  Bindings bindings;
  CompileOptions compile;
  SessionOptions session;
  double rtol = 1e-3;
  double atol = 1e-5;
};

/// What the comparison of a model with one data set found.
struct Verdict {
  bool passed = true;
  double max_abs_error = 0;
  double max_rel_error = 0;
  std::string first_mismatch;             // "output \"y\" [3, 1]: 0.25, expected 0.5"
  std::vector<std::string> without_file;  // outputs that there was nothing to compare with
  std::optional<Plan> plan;
};

/// The data sets of a test: `test_data_set_*` folders of `folder` in order, or `folder` itself when it holds input or
/// output files. @throws Error(M010) when there are none.
std::vector<std::string> data_sets(const std::string& folder);

/// Runs `model` on input_<i>.pb or .npy of a data set and compares with output_<i>. When shapes depend on the content
/// of integer inputs (M043), these inputs become part of the plan. `inspect` is called with the session after the step.
/// @throws Error for a model that cannot be planned (M050 when nothing fits) or files that cannot be read; Error(M010)
/// when there is no output to compare with.
Verdict verify_set(const Model& model, const std::string& folder, const Cluster& cluster, const VerifyOptions& options,
                   const std::function<void(const Session&, const StepResult&)>& inspect = {});

}  // namespace mpc::tools
