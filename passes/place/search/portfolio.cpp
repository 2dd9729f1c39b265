#include "passes/place/search/portfolio.h"

#include <algorithm>
#include <array>

#include "passes/place/search/coarsen.h"

namespace mpc::place {
namespace {

constexpr int kManyBlocks = 2500;         // from here on in levels
constexpr int kCoarsest = 600;            // blocks of the coarsest level
constexpr int kShrink = 3;                // from level to level
constexpr int64_t kFirstRound = 200'000;  // proposals

enum class From : uint8_t { best, start, random };

struct Round {
  From from;
  AnnealOptions options;
};

// Operator graphs, with costly cuts, need heat and high powers; layer graphs, where the last thousandth is balance, low
// powers and little heat. Which a graph is shows only in what the rounds find, so all take part.
constexpr Round kRounds[] = {
    {From::start, {0.05, 2e-5, 8, 32, 0, 0}},  {From::best, {0.004, 5e-6, 4, 64, 0.6, 0}},
    {From::best, {0.02, 2e-5, 8, 32, 0, 0}},   {From::best, {0.004, 5e-6, 4, 4, 0, 0}},
    {From::random, {0.1, 2e-5, 8, 32, 0, 0}},  {From::best, {0.0015, 5e-6, 4, 64, 0.6, 0}},
    {From::best, {0.004, 2e-5, 16, 16, 0, 0}}, {From::start, {0.01, 5e-6, 4, 64, 0.6, 0}},
};

bool is_better(const Split& a, const Split& b) {
  return a.overflow != b.overflow ? a.overflow < b.overflow : a.value < b.value;
}

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
    current_ = ++rounds_ % 2 == 0 && credit_[best] > 0 ? best : turn_++ % std::size(kRounds);
    return current_;
  }
  void report(bool has_improved) {
    constexpr double kMemory = 0.8;
    credit_[current_] = kMemory * credit_[current_] + (has_improved ? 1 : 0);
  }

 private:
  std::array<double, std::size(kRounds)> credit_{};
  size_t turn_ = 0;
  size_t current_ = 0;
  int rounds_ = 0;
};

Split anneal_flat(const Instance& instance, const Split& start, Random& random, Work& work) {
  Split best = start;
  Turns turns;
  int64_t proposals = kFirstRound;
  for (int round = 0; !work.is_over(); ++round) {
    const Round& recipe = kRounds[turns.next()];
    AnnealOptions options = recipe.options;
    options.proposals = proposals;
    const Split from = recipe.from == From::best    ? best
                       : recipe.from == From::start ? start
                                                    : random_split(instance, random);
    Split split = anneal(instance, from, options, random, work);
    const bool has_improved = is_better(split, best);
    turns.report(has_improved);
    if (has_improved) best = std::move(split);
    if (round % 4 == 3) proposals = proposals * 3 / 2;
  }
  return best;
}

/// The instance at every level, finest first, and the block of the next level that each block goes into.
struct Levels {
  std::vector<Instance> coarse;
  std::vector<std::vector<int>> group_of_block;  // [level]
};

Levels levels_of(const Instance& instance, Random& random) {
  Levels levels;
  const Instance* current = &instance;
  levels.coarse.reserve(32);  // pointers into it stay
  while (current->blocks > kCoarsest) {
    std::vector<int> group = heavy_groups(*current, std::max(kCoarsest, current->blocks / kShrink), random);
    Instance next = grouped(*current, group);
    if (next.blocks * 10 > current->blocks * 9) break;
    levels.group_of_block.push_back(std::move(group));
    levels.coarse.push_back(std::move(next));
    current = &levels.coarse.back();
  }
  return levels;
}

Split anneal_levels(const Instance& instance, const Split& start, Random& random, Work& work) {
  Split best = start;
  double share = 0.3;
  for (int round = 0; !work.is_over(); ++round, share = 1) {
    const Levels levels = levels_of(instance, random);
    const int64_t units = static_cast<int64_t>(share * static_cast<double>(work.left()));
    Split split;
    double hot = round % 2 == 0 ? 0.05 : 0.02;
    for (size_t level = levels.coarse.size() + 1; level-- > 0;) {
      const Instance& here = level == 0 ? instance : levels.coarse[level - 1];
      if (level == levels.coarse.size()) {
        split = random_split(here, random);
      } else {
        std::vector<int> device(static_cast<size_t>(here.blocks));
        for (size_t i = 0; i < device.size(); ++i) {
          device[i] = split.device_of_block[static_cast<size_t>(levels.group_of_block[level][i])];
        }
        split.device_of_block = std::move(device);
      }
      const int64_t mine = units / static_cast<int64_t>(levels.coarse.size() + 1);
      AnnealOptions options{hot, 2e-5, 8, 32, 0, std::max<int64_t>(1, mine / 200)};
      split = anneal(here, split, options, random, work);
      hot = std::max(hot / 4, 0.001);
    }
    if (is_better(split, best)) best = std::move(split);
  }
  return best;
}

}  // namespace

Split split_any(const Instance& instance, const Split& start, Random& random, Work& work) {
  if (instance.blocks <= kManyBlocks) return anneal_flat(instance, start, random, work);
  return anneal_levels(instance, start, random, work);
}

}  // namespace mpc::place
