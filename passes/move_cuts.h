#pragma once

#include "passes/observed.h"
#include "passes/pipeline.h"

namespace mpc {

// What no estimate of a placement knows, such as what waits for what in a step of few micro-batches, a whole plan does.
// So where there is time, nodes beside the cuts of a plan move to the other side, by ones and by whole stages, as long
// as the plans that come of it get shorter.

/// Goes on from `start` until no such move shortens the step (a stream of single micro-batches: its interval), or
/// `options.search_s` is used up: counted in instructions of the plans made, so that plans are the same on every
/// machine. What pins say stays. The plan's notes say what was gained.
/// @pre `start` is make_plan's for these arguments without a search
Plan move_cuts(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options, Plan start,
               const Observed& observed);

}  // namespace mpc
