#include "passes/place/kernel_gaps.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "compiler/base/error.h"

namespace mpc::place {
namespace {

/// What keeps a block from a backend: the first of its nodes without a kernel there.
struct Gap {
  NodeId node;
  std::string reason;
};

/// [backend][block]: the gap, for the blocks that have one.
using Gaps = std::map<std::string, std::map<int, Gap>>;

Gaps find_gaps(const Graph& graph, const Cluster& cluster, const KernelRefusal& refusal, const Problem& problem) {
  std::vector<int> block_of(static_cast<size_t>(graph.node_count()), -1);
  for (size_t b = 0; b < problem.nodes.size(); ++b) block_of[problem.nodes[b].index()] = static_cast<int>(b);
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    if (node.phase != Phase::forward) block_of[static_cast<size_t>(i)] = block_of[node.anchor.index()];
  }
  Gaps gaps;
  for (const Device& device : cluster.devices) gaps[device.backend];
  for (auto& [backend, of_blocks] : gaps) {
    for (int i = 0; i < graph.node_count(); ++i) {
      std::string reason = refusal(graph, NodeId(i), backend);
      if (!reason.empty()) of_blocks.emplace(block_of[static_cast<size_t>(i)], Gap{NodeId(i), std::move(reason)});
    }
  }
  return gaps;
}

std::string named(const Graph& graph, const Gap& gap) {
  const Node& node = graph.node(gap.node);
  return fmt::format("{} ({})", node.name, op_name(node.op));
}

}  // namespace

std::vector<std::string> pin_kernel_gaps(const Graph& graph, const Cluster& cluster, const KernelRefusal& refusal,
                                         Problem& problem) {
  std::vector<std::string> notes;
  if (!refusal) return notes;
  const Gaps gaps = find_gaps(graph, cluster, refusal, problem);
  std::string nowhere;
  for (int b = 0; b < problem.block_count; ++b) {
    const Gap* gap = nullptr;
    for (const auto& [backend, of_blocks] : gaps) {
      const auto found = of_blocks.find(b);
      if (found != of_blocks.end()) gap = &found->second;
    }
    if (gap == nullptr) continue;
    const auto device = std::ranges::find_if(
        cluster.devices, [&](const Device& candidate) { return !gaps.at(candidate.backend).contains(b); });
    if (device == cluster.devices.end()) {
      nowhere += fmt::format("{}{}: {}", nowhere.empty() ? "" : "; ", named(graph, *gap), gap->reason);
      continue;
    }
    int& pinned = problem.pinned[static_cast<size_t>(b)];
    if (pinned >= 0 && !gaps.at(cluster.devices[static_cast<size_t>(pinned)].backend).contains(b)) continue;
    if (pinned >= 0) {
      throw Error(ErrorId::M046, named(graph, *gap),
                  fmt::format("it is pinned to {}, which has no kernel for it: {}",
                              cluster.devices[static_cast<size_t>(pinned)].name, gap->reason),
                  fmt::format("pin it to {}, or leave it out of --pin", device->name));
    }
    pinned = static_cast<int>(device - cluster.devices.begin());
    notes.push_back(fmt::format("{} runs on {}: {}", named(graph, *gap), device->name, gap->reason));
  }
  if (!nowhere.empty()) {
    throw Error(ErrorId::M046, "plan", "no device has a kernel for " + nowhere,
                "add a CPU device: --devices cpu,cuda:0");
  }
  return notes;
}

}  // namespace mpc::place
