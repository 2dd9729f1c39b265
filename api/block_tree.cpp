#include "api/block_tree.h"

#include <cmath>
#include <map>
#include <memory>

#include <fmt/format.h>

#include "api/facts.h"
#include "compiler/plan/host_memory.h"

namespace mpc::api {
namespace {

constexpr size_t kMostChildren = 40;
// Names from hostile files may have thousands of scopes: what lies deeper is one name.
constexpr int kMostDepth = 16;

struct Scope {
  std::string name;
  PlanIndex node = kNone;
  std::vector<std::unique_ptr<Scope>> children;
  std::map<std::string, Scope*> by_name;  // scopes among the children
};

Scope& child_scope(Scope& parent, const std::string& name) {
  Scope*& found = parent.by_name[name];
  if (found == nullptr) {
    parent.children.push_back(std::make_unique<Scope>());
    found = parent.children.back().get();
    found->name = name;
  }
  return *found;
}

void add_node(Scope& root, PlanIndex index, const std::string& name) {
  Scope* scope = &root;
  size_t start = 0;
  for (int depth = 0; depth < kMostDepth; ++depth) {
    const size_t slash = name.find('/', start);
    if (slash == std::string::npos) break;
    if (slash > start) scope = &child_scope(*scope, name.substr(start, slash - start));
    start = slash + 1;
  }
  auto leaf = std::make_unique<Scope>();
  leaf->name = start < name.size() ? name.substr(start) : name;
  leaf->node = index;
  scope->children.push_back(std::move(leaf));
}

/// A scope with one child says no more than the child.
void join_single(Scope& scope) {
  for (auto& child : scope.children) {
    join_single(*child);
    while (child->node == kNone && child->children.size() == 1) {
      std::unique_ptr<Scope> only = std::move(child->children.front());
      only->name = child->name + "/" + only->name;
      child = std::move(only);
    }
  }
}

void group_neighbours(Scope& scope) {
  for (auto& child : scope.children) group_neighbours(*child);
  while (scope.children.size() > kMostChildren) {
    const size_t count = scope.children.size();
    const size_t groups = std::min(kMostChildren / 2, (count + 1) / 2);
    std::vector<std::unique_ptr<Scope>> grouped;
    for (size_t g = 0; g < groups; ++g) {
      auto group = std::make_unique<Scope>();
      for (size_t i = count * g / groups; i < count * (g + 1) / groups; ++i) {
        group->children.push_back(std::move(scope.children[i]));
      }
      group->name = fmt::format("{} \xE2\x80\xA6 {}", group->children.front()->name, group->children.back()->name);
      group_neighbours(*group);
      grouped.push_back(std::move(group));
    }
    scope.children = std::move(grouped);
  }
}

void append_blocks(const Scope& scope, int parent, DeviceId device, std::vector<TreeBlock>& blocks) {
  const int id = static_cast<int>(blocks.size());
  blocks.push_back({scope.name, parent, device, scope.node});
  for (const auto& child : scope.children) append_blocks(*child, id, device, blocks);
}

}  // namespace

std::vector<TreeBlock> block_tree(const Plan& plan) {
  std::vector<Scope> roots(plan.devices.size());
  for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
    const PlanNode& node = plan.nodes[n];
    if (node.phase == PlanPhase::forward) add_node(roots[node.device.index()], n, node.name);
  }
  std::vector<TreeBlock> blocks;
  for (size_t d = 0; d < roots.size(); ++d) {
    if (is_host_memory(plan.devices[d])) continue;
    roots[d].name = plan.devices[d].name;
    join_single(roots[d]);
    group_neighbours(roots[d]);
    append_blocks(roots[d], -1, DeviceId(d), blocks);
  }
  return blocks;
}

}  // namespace mpc::api
