#pragma once

#include <map>
#include <string>
#include <vector>

#include "mpc/mpc.h"
#include "tools/console.h"

namespace mpc::tools {

/// What was measured of a plan's steps.
struct Measured {
  double step_seconds = 0;
  std::vector<OpTime> ops = {};  // empty: not recorded
};

/// `devices`, `transfers`, `predicted`, `measured`, `error` and `ops` of the JSON of run, train, verify and bench.
Json execution_json(const Plan& plan, const Session& session, const Measured& measured);
/// The same for people: per device predicted and used bytes and the kernels that carry the work; predicted and measured
/// time of the step and of every operator.
std::string execution_text(const Plan& plan, const Session& session, const Measured& measured);

/// One line: what was predicted and measured of the step, and of the fullest device.
std::string execution_summary(const Plan& plan, const Session& session, const Measured& measured);

/// May the times of every step be recorded without making the steps slower? Not on GPUs, where whole steps are replayed
/// as one graph otherwise.
bool records_for_free(const Plan& plan);

/// Makes `data` what `input` takes: u8 images become f32 in [0, 1], integers and floats are converted, and rows with as
/// many elements are reshaped. The number of rows stays. @throws Error(M004) when rows do not fit.
Tensor fit_rows(Tensor data, const TensorInfo& input);

/// Content for an input that no file gives: floats uniform in [-1, 1), integers below what their readers allow.
Tensor random_input(const TensorInfo& input, uint64_t seed);

}  // namespace mpc::tools
