#pragma once

#include <cstdint>
#include <optional>

#include "tests/schedule/pipelines.h"

namespace mpc::test {

/// Is there an order of the tasks of the pipeline, cut with weight gradients apart, that ends within `limit_s` and
/// keeps at most `most_kept` micro-batches per stage? Complete search: branches on what a device does next, drops what
/// another sequence with the same tasks done has dominated. @pre one stage per device. @return nothing when more than
/// `most_states` states were seen.
std::optional<bool> has_schedule_within(const Pipeline& pipeline, int microbatches, double limit_s, int most_kept,
                                        int64_t most_states);

}  // namespace mpc::test
