#include "passes/place/search/portfolio.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "passes/place/search/coarsen.h"
#include "passes/place/search/combine.h"

namespace mpc::place {
namespace {

constexpr int kManyBlocks = 2500;       // from here on in levels
constexpr int kCoarsestPerDevice = 24;  // blocks of the coarsest level
constexpr int kShrink = 3;              // from level to level
// Of few blocks, the first rounds are this share of the work; a round has about 200 to 300 units a proposal. Later ones
// are longer: splits that are good already take more to become better. (pd19-inception_v3 and layer-resnet50-inference,
// five orders of their nodes each: with 40 all at or below the best known value, with 80 all but one.)
constexpr int kFirstRounds = 40;
constexpr int kRoundsAlike = 8;
constexpr int64_t kRoundUnits = 190;
constexpr int64_t kLevelUnits = 200;
constexpr int64_t kGroupUnits = 400;     // all levels, per block and tensor
constexpr int64_t kLeastRound = 50'000;  // proposals
constexpr int kRoundsAlone = 8;          // before splits are combined
// Shares of the work for the levels from nothing, and for each time that the best split goes through them.
// Many short cycles, each with other groups, do a little better than a few long ones (2 s, four orders of the nodes,
// over the best known value on average, with 0.3 and 0.15 and so: gen-moe-10k 0.9995 and 0.9992, gen-unet-10k 1.0029
// and 0.9995, gen-towers-10k 0.9977 and 0.9973). Shorter ones leave each level too few proposals (0.02:
// gen-unet-10k 1.0097).
constexpr double kFreshShare = 0.25;
constexpr double kCycleShare = 0.08;
// Cycles see the largest load alone more and more: what they find in a good split is balance (10 s: gen-unet-10k 17.781
// -> 17.754, gen-moe-10k 8.132 -> 8.123).
constexpr AnnealOptions kFresh{0.05, 2e-5, 8, 32, 0, 0, Swaps::blocks};
constexpr AnnealOptions kCycle{0.01, 1e-5, 8, 256, 0.5, 0, Swaps::blocks};

constexpr double kUnit = 0x1p-36;  // of the largest load of the start

enum class From : uint8_t { best, start, random };

struct Round {
  From from;
  AnnealOptions options;
};

// Operator graphs, with costly cuts, need heat and moderate powers. In layer graphs the last thousandth is balance:
// they need a low power while cuts are chosen and then powers of thousands, under which what is left between the loads
// of devices counts as much as a cut. Which a graph is shows only in what the rounds find, so all take part.
constexpr Round kRecipes[] = {
    {From::start, {0.1, 3e-6, 8, 2048, 0.4, 0}},   {From::start, {0.02, 3e-6, 4, 2048, 0.7, 0}},
    {From::random, {0.1, 2e-5, 8, 32, 0, 0}},      {From::best, {0.004, 3e-6, 4, 2048, 0.7, 0}},
    {From::random, {0.1, 3e-6, 16, 2048, 0.4, 0}}, {From::best, {0.02, 3e-6, 4, 2048, 0.7, 0}},
    {From::start, {0.05, 2e-5, 8, 32, 0, 0}},      {From::best, {0.02, 2e-5, 8, 32, 0, 0}},
};

Split random_split(const Instance& instance, Random& random) {
  Split split;
  const int devices = instance.devices();
  for (int block = 0; block < instance.blocks; ++block) {
    int device = random.below(devices);
    while (instance.kinds[static_cast<size_t>(instance.kind_of(device))].time[static_cast<size_t>(block)] ==
           kForbidden) {
      device = (device + 1) % devices;
    }
    split.device_of_block.push_back(device);
  }
  return split;
}

/// Which recipe comes next: all in turn, but every second round the one that improved the best split most lately.
class Turns {
 public:
  size_t next() {
    const size_t best = static_cast<size_t>(std::max_element(credit_.begin(), credit_.end()) - credit_.begin());
    current_ = ++rounds_ % 2 == 0 && credit_[best] > 0 ? best : turn_++ % std::size(kRecipes);
    return current_;
  }
  void report(bool has_improved) {
    constexpr double kMemory = 0.8;
    credit_[current_] = kMemory * credit_[current_] + (has_improved ? 1 : 0);
  }

 private:
  std::array<double, std::size(kRecipes)> credit_{};
  size_t turn_ = 0;
  size_t current_ = 0;
  int rounds_ = 0;
};

Split anneal_flat(const Instance& instance, const Split& start, Random& random, Work& work) {
  Split best = start;
  Turns turns;
  Elite elite;
  int64_t proposals = std::max(kLeastRound, work.left() / kRoundUnits / kFirstRounds);
  for (int round = 0; !work.is_over(); ++round) {
    Split split;
    if (round >= kRoundsAlone && round % 2 == 1 && elite.size() >= 2) {
      const auto [better, worse] = elite.any_two(random);
      split = combine(instance, *better, *worse, proposals, random, work);
    } else {
      const Round& recipe = kRecipes[turns.next()];
      AnnealOptions options = recipe.options;
      options.proposals = proposals;
      options.counts = Counts::after_heat;
      const Split from = recipe.from == From::best    ? best
                         : recipe.from == From::start ? start
                                                      : random_split(instance, random);
      split = anneal(instance, from, options, random, work);
      turns.report(is_better(split, best));
    }
    elite.add(split);
    if (is_better(split, best)) best = std::move(split);
    if (round % kRoundsAlike == kRoundsAlike - 1) proposals += proposals / 2;
  }
  return best;
}

/// The instance at every level, finest first, and the block of the next level that each block goes into.
struct Levels {
  std::vector<Instance> coarse;
  std::vector<std::vector<int>> group_of_block;  // [level]

  size_t count() const { return coarse.size() + 1; }
  const Instance& at(const Instance& finest, size_t level) const { return level == 0 ? finest : coarse[level - 1]; }

  /// The devices of the next coarser level. @pre no group has two.
  std::vector<int> up(size_t level, const std::vector<int>& device_of_block) const {
    std::vector<int> device(static_cast<size_t>(coarse[level].blocks));
    for (size_t i = 0; i < device_of_block.size(); ++i)
      device[static_cast<size_t>(group_of_block[level][i])] = device_of_block[i];
    return device;
  }
  /// The devices of `level` from those of the next coarser one.
  std::vector<int> down(size_t level, const std::vector<int>& device_of_group) const {
    std::vector<int> device;
    for (const int group : group_of_block[level]) device.push_back(device_of_group[static_cast<size_t>(group)]);
    return device;
  }
};

/// Groups of groups; no group has blocks of two devices, unless `device_of_block` is empty.
Levels levels_of(const Instance& instance, std::vector<int> device_of_block, Random& random) {
  Levels levels;
  const Instance* current = &instance;
  levels.coarse.reserve(32);  // pointers into it stay
  const int coarsest = kCoarsestPerDevice * instance.devices();
  while (current->blocks > coarsest) {
    const int target = std::max(coarsest, current->blocks / kShrink);
    std::vector<int> group = heavy_groups(*current, target, device_of_block, random);
    Instance next = grouped(*current, group);
    if (next.blocks * 10 > current->blocks * 9) break;
    levels.group_of_block.push_back(std::move(group));
    levels.coarse.push_back(std::move(next));
    current = &levels.coarse.back();
    if (!device_of_block.empty()) device_of_block = levels.up(levels.coarse.size() - 1, device_of_block);
  }
  return levels;
}

/// From the coarsest level, where it begins with `device_of_group`, to the finest, with `units` of work; ever colder.
Split anneal_down(const Instance& instance, const Levels& levels, std::vector<int> device_of_group,
                  AnnealOptions options, int64_t units, Random& random, Work& work) {
  Split split;
  const int64_t each = units / static_cast<int64_t>(levels.count());
  options.proposals = std::max<int64_t>(1, each / kLevelUnits);
  for (size_t level = levels.count(); level-- > 0;) {
    split.device_of_block =
        level + 1 == levels.count() ? std::move(device_of_group) : levels.down(level, split.device_of_block);
    split = anneal(levels.at(instance, level), split, options, random, work);
    options.hot = std::max(options.hot / 4, 0.001);
  }
  return split;
}

/// The levels once from nothing, then again and again with groups that respect the best split: what single blocks
/// cannot do from there, groups can. (The V-cycles of multilevel partitioners; measured on 10,000 nodes: 1 % better
/// after one.)
Split anneal_levels(const Instance& instance, const Split& start, Random& random, Work& work) {
  Split best = start;
  const auto all_units = static_cast<double>(work.left());
  for (int round = 0; !work.is_over(); ++round) {
    const bool is_fresh = round == 0;
    const Levels levels = levels_of(instance, is_fresh ? std::vector<int>() : best.device_of_block, random);
    work.spend(kGroupUnits * (instance.blocks + instance.tensors()));
    const int64_t units = std::min(std::max<int64_t>(1, work.left()),
                                   static_cast<int64_t>(all_units * (is_fresh ? kFreshShare : kCycleShare)));
    std::vector<int> device = best.device_of_block;
    for (size_t level = 0; level + 1 < levels.count() && !is_fresh; ++level) device = levels.up(level, device);
    if (is_fresh) device = random_split(levels.at(instance, levels.count() - 1), random).device_of_block;
    Split split = anneal_down(instance, levels, std::move(device), is_fresh ? kFresh : kCycle, units, random, work);
    if (is_better(split, best)) best = std::move(split);
  }
  return best;
}

/// The instance in whole units of time: sums are exact, so neither the unit nor an order of adding up changes any.
Instance in_whole_units(Instance instance, double unit) {
  for (double& cost : instance.cost) cost = std::round(cost / unit);
  for (DeviceKind& kind : instance.kinds) {
    for (double& time : kind.time) time = std::round(time / unit);
  }
  return instance;
}

}  // namespace

Split split_any(const Instance& instance, const Split& start, Random& random, Work& work) {
  const double largest = loads_of(instance, start.device_of_block).largest;
  const Instance whole = largest > 0 ? in_whole_units(instance, largest * kUnit) : instance;
  const Instance merged = with_common_tensors(whole);
  Split begin = start;
  if (start.overflow == 0) begin.value = loads_of(merged, start.device_of_block).largest;
  Split found = merged.blocks <= kManyBlocks ? anneal_flat(merged, begin, random, work)
                                             : anneal_levels(merged, begin, random, work);
  if (found.overflow == 0) found.value = loads_of(instance, found.device_of_block).largest;
  return found;
}

}  // namespace mpc::place
