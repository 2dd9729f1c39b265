#include "passes/place/place.h"

#include <algorithm>
#include <array>
#include <map>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "passes/place/anneal_latency.h"
#include "passes/place/least_memory.h"
#include "passes/place/stages.h"

namespace mpc {
namespace {

using place::Evaluation;
using place::Problem;

constexpr std::array<std::string_view, 4> kObjectives = {"throughput", "latency", "devices", "memory"};
constexpr int kRefineEvaluations = 20'000;
constexpr int kLeastEvaluations = 200;
constexpr double kSlackOfOneMicrobatch = 0.125;

// Blocks that fit no other start: pinned blocks where they are pinned, the others on the device of the nearest pinned
// one before them.
std::vector<int> start_from_pins(const Problem& problem) {
  std::vector<int> device(static_cast<size_t>(problem.block_count), -1);
  int last = -1;
  for (size_t b = 0; b < device.size(); ++b) {
    if (problem.pinned[b] >= 0) last = problem.pinned[b];
    device[b] = problem.pinned[b] >= 0 ? problem.pinned[b] : last;
  }
  int next = 0;
  for (size_t b = device.size(); b-- > 0;) {
    if (device[b] >= 0) next = device[b];
    if (device[b] < 0) device[b] = next;
  }
  return device;
}

// All blocks on the one device that is fastest for them and holds them, pins aside.
std::vector<int> start_on_one_device(const Problem& problem) {
  int best = 0;
  double best_s = 0;
  for (int d = 0; d < problem.device_count; ++d) {
    double seconds = 0;
    for (const double s : problem.seconds[static_cast<size_t>(d)]) seconds += s;
    if (d == 0 || seconds < best_s) {
      best = d;
      best_s = seconds;
    }
  }
  std::vector<int> device(static_cast<size_t>(problem.block_count), best);
  for (size_t b = 0; b < device.size(); ++b) {
    if (problem.pinned[b] >= 0) device[b] = problem.pinned[b];
  }
  return device;
}

// List scheduling: each block, in order, goes where it finishes first.
std::vector<int> start_earliest_finish(const Problem& problem) {
  std::vector<int> device(static_cast<size_t>(problem.block_count), 0);
  std::vector<double> device_free(static_cast<size_t>(problem.device_count), 0);
  std::vector<double> done(device.size(), 0);
  for (size_t b = 0; b < device.size(); ++b) {
    double best = -1;
    for (int d = 0; d < problem.device_count; ++d) {
      if (problem.pinned[b] >= 0 && problem.pinned[b] != d) continue;
      double start = device_free[static_cast<size_t>(d)];
      for (const int t : problem.tensors_of[b]) {
        const place::Tensor& tensor = problem.tensors[static_cast<size_t>(t)];
        if (static_cast<size_t>(tensor.producer) >= b) continue;
        const int from = device[static_cast<size_t>(tensor.producer)];
        start = std::max(start, done[static_cast<size_t>(tensor.producer)] +
                                    (from == d ? 0 : problem.move_seconds(tensor, from, d)));
      }
      const double end = start + problem.seconds[static_cast<size_t>(d)][b];
      if (best < 0 || end < best) {
        best = end;
        device[b] = d;
      }
    }
    done[b] = best;
    device_free[static_cast<size_t>(device[b])] = best;
  }
  return device;
}

struct Candidate {
  std::vector<int> device_of_block;
  place::Score score;
  double lower_bound_s = 0;  // of the largest load; 0: not known
};

Candidate better_of(Candidate a, Candidate b) {
  if (a.device_of_block.empty()) return b;
  if (b.device_of_block.empty()) return a;
  return b.score < a.score ? std::move(b) : std::move(a);
}

Candidate stages(const Problem& problem, const place::StageOptions& options, Objective objective) {
  std::optional<place::Stages> found = place::split_in_stages(problem, options);
  if (!found) return {};
  const place::Score score = place::score(problem, found->device_of_block, objective);
  return {std::move(found->device_of_block), score, found->lower_bound};
}

Candidate refined(const Problem& problem, std::vector<std::vector<int>> starts, Objective objective) {
  const int each = std::max(
      kLeastEvaluations, kRefineEvaluations / std::max(1, problem.block_count / 50) / static_cast<int>(starts.size()));
  Candidate best;
  for (std::vector<int>& start : starts) {
    std::vector<int> device = place::refine(problem, std::move(start), objective, each);
    const place::Score score = place::score(problem, device, objective);
    best = better_of(std::move(best), {std::move(device), score});
  }
  return best;
}

// For pins that no stages obey and models that do not fit: local moves that lower first the bytes over capacity.
Candidate repaired(const Problem& problem, Objective objective) {
  std::vector<std::vector<int>> starts = {start_from_pins(problem), start_on_one_device(problem),
                                          start_earliest_finish(problem)};
  const Candidate roomy = stages(problem, {.obeys_capacities = false}, objective);
  if (!roomy.device_of_block.empty()) starts.push_back(roomy.device_of_block);
  return refined(problem, std::move(starts), objective);
}

// With one micro-batch the devices take turns, and a step takes what the way through all of them takes: balance matters
// less, what is sent matters more.
Candidate search_throughput(const Problem& problem, const PlaceOptions& options) {
  const double slack = options.microbatches == 1 ? kSlackOfOneMicrobatch : 0;
  Candidate found = stages(problem, {.transfer_slack = slack, .is_quick = options.is_quick}, Objective::throughput);
  if (!found.device_of_block.empty() && found.score.overflow_bytes == 0) return found;
  return better_of(std::move(found), repaired(problem, Objective::throughput));
}

Candidate search_latency(const Problem& problem, double budget_s) {
  std::vector<std::vector<int>> starts = {start_on_one_device(problem), start_earliest_finish(problem),
                                          start_from_pins(problem)};
  const Candidate few = stages(problem, {.uses_all_devices = false}, Objective::latency);
  if (!few.device_of_block.empty()) starts.push_back(few.device_of_block);
  Candidate found = refined(problem, std::move(starts), Objective::latency);
  std::vector<int> annealed = place::anneal_latency(problem, found.device_of_block, budget_s);
  found = better_of(std::move(found), refined(problem, {std::move(annealed)}, Objective::latency));
  if (found.score.overflow_bytes == 0) return found;
  return better_of(std::move(found), repaired(problem, Objective::latency));
}

Candidate search_fewest_devices(Problem problem) {
  Candidate found = stages(problem, {.uses_all_devices = false}, Objective::devices);
  if (!found.device_of_block.empty() && found.score.overflow_bytes == 0) return found;
  // Pins that no stages obey: the first k devices only. The others get no memory, so nothing is placed there.
  const std::vector<int64_t> capacity = problem.capacity_bytes;
  for (int k = 1; k <= problem.device_count; ++k) {
    for (int d = k; d < problem.device_count; ++d) problem.capacity_bytes[static_cast<size_t>(d)] = 0;
    for (int d = 0; d < k; ++d) problem.capacity_bytes[static_cast<size_t>(d)] = capacity[static_cast<size_t>(d)];
    found = search_latency(problem, kLatencyBudget);
    if (found.score.overflow_bytes == 0) break;
  }
  return found;
}

Candidate search_memory(const Problem& problem) {
  std::vector<int> found = place::split_for_memory(problem);
  if (found.empty()) return repaired(problem, Objective::memory);  // pins that no stages obey
  const place::Score score = place::score(problem, found, Objective::memory);
  return {std::move(found), score};
}

Candidate search(const Problem& problem, const PlaceOptions& options) {
  switch (options.objective) {
    case Objective::throughput:
      return search_throughput(problem, options);
    case Objective::latency:
      return search_latency(problem, options.budget_s);
    case Objective::devices:
      return search_fewest_devices(problem);
    case Objective::memory:
      return search_memory(problem);
  }
  return {};
}

// Names the places where a cut lies behind a block that makes much less than it reads, with both numbers.
std::vector<std::string> notes_on_cuts(const Problem& problem, const std::vector<int>& device_of_block,
                                       const Graph& graph) {
  std::map<size_t, int64_t> sent_bytes;  // by the block that makes them
  for (const place::Tensor& sent : problem.tensors) {
    const auto producer = static_cast<size_t>(sent.producer);
    const int device = device_of_block[producer];
    const bool crosses =
        std::ranges::any_of(sent.consumers, [&](int b) { return device_of_block[static_cast<size_t>(b)] != device; });
    if (crosses && !sent.is_parameter) sent_bytes[producer] += sent.forward_bytes;  // a block makes no parameter
  }
  constexpr int64_t kWorthTelling = 4;
  std::vector<std::string> notes;
  for (const auto& [producer, bytes] : sent_bytes) {
    const int device = device_of_block[producer];
    int64_t read_bytes = 0;
    for (const int t : problem.tensors_of[producer]) {
      const place::Tensor& tensor = problem.tensors[static_cast<size_t>(t)];
      const bool is_local_operand = tensor.producer != static_cast<int>(producer) && !tensor.is_parameter &&
                                    device_of_block[static_cast<size_t>(tensor.producer)] == device;
      if (is_local_operand) read_bytes = std::max(read_bytes, tensor.forward_bytes);
    }
    if (bytes == 0 || read_bytes < kWorthTelling * bytes) continue;
    notes.push_back(fmt::format("{} runs before the cut: {} bytes are sent instead of {} ({:.0f}x less)",
                                graph.node(problem.nodes[producer]).name, bytes, read_bytes,
                                static_cast<double>(read_bytes) / static_cast<double>(bytes)));
  }
  return notes;
}

// Is the tensor received by `device`, or made there?
bool is_on(const place::Tensor& tensor, int device, const std::vector<int>& device_of_block, int except_block) {
  if (device_of_block[static_cast<size_t>(tensor.producer)] == device) return true;
  return std::ranges::any_of(
      tensor.consumers, [&](int b) { return b != except_block && device_of_block[static_cast<size_t>(b)] == device; });
}

// Names pinned elementwise blocks whose result is all that another device wants of them, and whose operands are there
// anyway: it could compute the result for itself. Blocks without a pin were tried there by the search.
std::vector<std::string> notes_on_cheap_blocks(const Problem& problem, const std::vector<int>& device_of_block,
                                               const Graph& graph) {
  std::vector<std::string> notes;
  for (const place::Tensor& sent : problem.tensors) {
    const auto block = static_cast<size_t>(sent.producer);
    const Node& node = graph.node(problem.nodes[block]);
    if (problem.pinned[block] < 0 || op_share(node.op) != Share::kElementwise || sent.forward_bytes == 0 ||
        sent.is_parameter)
      continue;
    const int to = device_of_block[static_cast<size_t>(sent.consumers.front())];
    if (to == device_of_block[block]) continue;
    const bool is_wanted_elsewhere =
        std::ranges::any_of(sent.consumers, [&](int b) { return device_of_block[static_cast<size_t>(b)] != to; });
    if (is_wanted_elsewhere) continue;
    std::vector<const place::Tensor*> operands;
    for (const int t : problem.tensors_of[block]) {
      const place::Tensor& tensor = problem.tensors[static_cast<size_t>(t)];
      if (tensor.producer != sent.producer && tensor.forward_bytes > 0) operands.push_back(&tensor);
    }
    const bool has_operands = std::ranges::all_of(
        operands, [&](const place::Tensor* operand) { return is_on(*operand, to, device_of_block, sent.producer); });
    if (operands.empty() || !has_operands) continue;
    const std::string& name = problem.cluster->devices[static_cast<size_t>(to)].name;
    notes.push_back(
        fmt::format("{} could run on {}, which has its operands: {} bytes less would be sent (--pin '^{}$={}' before "
                    "the other pins)",
                    node.name, name, sent.forward_bytes, node.name, to));
  }
  return notes;
}

double total_seconds(const Problem& problem, int device) {
  double total = 0;
  for (const double s : problem.seconds[static_cast<size_t>(device)]) total += s;
  return total;
}

// No device can start a second block before its first is done, and all devices together have a bounded rate. A way
// through the graph takes what its nodes take. Transfers are left out.
double lower_bound(const Problem& problem, Objective objective) {
  if (objective == Objective::memory) return place::least_share_bound(problem);
  double largest_block = 0;
  double rate = 0;  // devices working at once, each finishing 1/total of the model per second
  for (int d = 0; d < problem.device_count; ++d) {
    const double total = total_seconds(problem, d);
    if (total > 0) rate += 1 / total;
  }
  for (int b = 0; b < problem.block_count; ++b) {
    double least = problem.seconds[0][static_cast<size_t>(b)];
    for (int d = 1; d < problem.device_count; ++d)
      least = std::min(least, problem.seconds[static_cast<size_t>(d)][static_cast<size_t>(b)]);
    largest_block = std::max(largest_block, least);
  }
  const double path_s = objective == Objective::throughput ? 0 : problem.path().longest_s;
  return std::max({largest_block, rate > 0 ? 1 / rate : 0, path_s});
}

}  // namespace

std::optional<Objective> parse_objective(std::string_view name) {
  for (size_t i = 0; i < kObjectives.size(); ++i) {
    if (kObjectives[i] == name) return static_cast<Objective>(i);
  }
  return std::nullopt;
}

std::string_view objective_name(Objective objective) {
  return kObjectives[static_cast<size_t>(objective)];
}

Placement place_nodes(const Graph& graph, const Cluster& cluster, const PlaceOptions& options) {
  Problem problem = place::make_problem(graph, cluster, options.pins, options.microbatches);
  problem.overlaps_transfers |= options.overlaps_transfers && place::has_copy_engines(cluster);
  std::vector<std::string> gap_notes = place::pin_kernel_gaps(graph, cluster, options.refusal, problem);
  place::attach_followers(graph, problem);
  problem.is_of_parts = options.is_of_parts;
  problem.held = options.held;
  problem.device_order = options.device_order;
  for (size_t d = 0; d < options.extra_bytes.size(); ++d) problem.capacity_bytes[d] -= options.extra_bytes[d];
  Placement placement;
  placement.device_of_node.assign(static_cast<size_t>(graph.node_count()), DeviceId(0));
  if (problem.block_count == 0) {
    placement.estimated_bytes.assign(static_cast<size_t>(problem.device_count), 0);
    return placement;
  }
  const Candidate best = search(problem, options);
  placement.overflow_bytes = best.score.overflow_bytes;

  for (size_t b = 0; b < best.device_of_block.size(); ++b)
    placement.device_of_node[problem.nodes[b].index()] = DeviceId(best.device_of_block[b]);
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    if (node.phase != Phase::forward)
      placement.device_of_node[static_cast<size_t>(i)] = placement.device_of_node[node.anchor.index()];
  }
  const Evaluation value = place::evaluate(problem, best.device_of_block);
  placement.estimated_bytes = value.memory_bytes;
  placement.device_order = place::order_of_devices(problem, best.device_of_block);
  placement.largest_work_s = value.compute_s.empty() ? 0 : std::ranges::max(value.compute_s);
  placement.objective_value = place::value_of(problem, best.device_of_block, options.objective);
  placement.lower_bound =
      std::min(placement.objective_value, std::max(best.lower_bound_s, lower_bound(problem, options.objective)));
  placement.notes = std::move(gap_notes);
  for (std::string& note : notes_on_cuts(problem, best.device_of_block, graph))
    placement.notes.push_back(std::move(note));
  for (std::string& note : notes_on_cheap_blocks(problem, best.device_of_block, graph))
    placement.notes.push_back(std::move(note));
  return placement;
}

void judge_placement(const Graph& graph, const Cluster& cluster, const PlaceOptions& options, Placement& placement) {
  Problem problem = place::make_problem(graph, cluster, options.pins, options.microbatches);
  problem.overlaps_transfers |= options.overlaps_transfers && place::has_copy_engines(cluster);
  problem.held = options.held;
  if (problem.block_count == 0) return;
  std::vector<int> device_of_block;
  for (const NodeId node : problem.nodes)
    device_of_block.push_back(static_cast<int>(placement.device_of_node[node.index()].index()));
  placement.objective_value = place::value_of(problem, device_of_block, options.objective);
  placement.lower_bound = std::min(placement.objective_value, lower_bound(problem, options.objective));
}

Graph apply_placement(const Graph& graph, const std::vector<DeviceId>& device_of_node) {
  Graph placed = graph;
  for (int i = 0; i < placed.node_count(); ++i) placed.node(NodeId(i)).device = device_of_node[static_cast<size_t>(i)];
  placed.stage = Stage::placed;
  return placed;
}

}  // namespace mpc
