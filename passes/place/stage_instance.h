#pragma once

#include <utility>
#include <vector>

#include "passes/place/problem.h"
#include "passes/place/search/instance.h"

namespace mpc::place {

/// Which devices are of one kind: where every block costs and every byte fits alike; or where also nothing but their
/// numbers tells their links apart.
enum class Alike : uint8_t { in_cost, in_cost_and_links };

/// The kinds, each the devices of it in ascending order, in the order of the first of each. O(devices^2 * kinds).
std::vector<std::vector<int>> kinds_of_devices(const Problem& problem, Alike alike);

/// Is every link as good as every other one?
bool has_equal_links(const Cluster& cluster);

/// The link that the instance prices a tensor at, where links differ: the one that is best for the tensor, so that no
/// split costs more there than on the links there are; or the middle one of those from each device to the next.
enum class Pricing : uint8_t { best_link, middle_link };

/// A problem as an instance of the search (passes/place/search), whose blocks are those of the problem joined where
/// they must stay together ("groups"): followers with their leaders, and what stands on a cycle then.
class StageInstance {
 public:
  /// @throws Error(M051) for more kinds of devices than the search takes.
  StageInstance(const Problem& problem, Alike alike, Pricing pricing, bool obeys_capacities);

  /// A tensor costs what `Pricing` says.
  const Instance& instance() const { return instance_; }
  /// [device of the instance]: device of the problem.
  const std::vector<int>& devices() const { return devices_; }
  /// [block of the problem]: block of the instance.
  const std::vector<int>& group_of_block() const { return group_of_block_; }
  /// [tensor of the instance]: tensor of the problem.
  const std::vector<int>& tensors() const { return tensors_; }

  /// The instance's numbers of devices of the problem.
  std::vector<int> numbers_of(const std::vector<int>& devices) const;
  /// [block of the problem]: device of the problem.
  std::vector<int> device_of_block(const std::vector<int>& device_of_group) const;

 private:
  using Pair = std::pair<int, int>;

  std::vector<Pair> order_of_groups() const;
  void join_blocks();
  void add_kinds(const std::vector<std::vector<int>>& kinds, bool obeys_capacities);
  void add_memory();
  void add_tensors(const std::vector<Link>& links);

  const Problem& problem_;
  std::vector<int> devices_;
  std::vector<int> group_of_block_;
  std::vector<int> tensors_;
  Instance instance_;
};

}  // namespace mpc::place
