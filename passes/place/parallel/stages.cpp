#include "passes/place/parallel/stages.h"

#include <algorithm>
#include <span>
#include <unordered_map>

#include "compiler/base/random.h"
#include "passes/place/parallel/alike_stages.h"
#include "passes/place/parallel/downsets.h"
#include "passes/place/parallel/stage_cost.h"

namespace mpc::place {
namespace {

constexpr size_t kMostSets = 20'000;
constexpr size_t kMostStages = 3'000'000;  // pairs of sets
constexpr int kOrders = 8;                 // that are tried when there are more
constexpr double kTimePrecision = 1e-12;   // relative: where bisection ends
constexpr double kSameTime = 1e-9;         // relative: a bound this close is met
constexpr double kFirstSlack = 0.05;       // of the first time that is tried, over the bound
constexpr int64_t kStageUnits = 400;       // one stage is enumerated
constexpr int64_t kCostUnits = 100;        // per node of a stage whose choices are weighed
constexpr int64_t kTryUnits = 10;          // one (stage, spread) is tried

/// A stage between two downsets. Stages of repeated layers are alike: the same nodes so many places further on, at the
/// same costs. What alike ones cost is summed up and weighed once.
struct Candidate {
  size_t above = 0;
  size_t below = 0;
  size_t alike = 0;  // number of what it is like
};

struct Fastest {
  double time = kNever;  // of a sample on one replica, with transfers; kNever: a node has no such degree
  double parameter_bytes = 0;
  double bytes_per_microbatch = 0;
  double fixed_bytes = 0;
  double bytes_over_replicas = 0;
  double least_per_microbatch = 0;  // by whatever choices
  double least_fixed = 0;
  double least_over_replicas = 0;
};

/// Every stage that can stand between two downsets.
class Candidates {
 public:
  Candidates(const ParallelGraph& graph, const Downsets& sets, Work& work)
      : graph_(graph), sets_(sets), work_(work), alike_(graph) {}

  /// @return false when there are too many, or no work is left.
  bool build() {
    std::vector<size_t> visited(sets_.size(), 0);
    std::vector<char> is_inside(graph_.nodes.size(), 0);
    for (size_t above = 1; above < sets_.size(); ++above) {
      std::vector<size_t> open = {above};
      for (size_t i = 0; i < open.size(); ++i) {
        for (auto link = sets_.begin_of(open[i]); link != sets_.end_of(open[i]); ++link) {
          if (visited[link->below] == above) continue;
          visited[link->below] = above;
          open.push_back(link->below);
          if (!add(above, link->below, is_inside)) return false;
        }
      }
      end_of_above_.push_back(candidates_.size());
    }
    return true;
  }

  std::span<const Candidate> of(size_t above) const {
    const size_t begin = above == 1 ? 0 : end_of_above_[above - 2];
    return std::span(candidates_).subspan(begin, end_of_above_[above - 1] - begin);
  }
  /// What does not depend on the spread of a stage when every node takes its fastest choice.
  const Fastest& fastest(const Candidate& candidate, size_t degree) const {
    return fastest_[candidate.alike * graph_.degrees.size() + degree];
  }
  size_t index_of(const Candidate& candidate) const { return static_cast<size_t>(&candidate - candidates_.data()); }

 private:
  bool add(size_t above, size_t below, std::vector<char>& is_inside) {
    const std::vector<int> nodes = sets_.nodes_between(above, below);
    if (candidates_.size() >= kMostStages) return false;
    const auto [alike, is_first] = alike_.of(nodes);
    candidates_.push_back({above, below, alike});
    if (!work_.spend(kStageUnits * (is_first ? static_cast<int64_t>(nodes.size()) : 1))) return false;
    if (!is_first) return true;
    for (const int node : nodes) is_inside[static_cast<size_t>(node)] = 1;
    for (size_t degree = 0; degree < graph_.degrees.size(); ++degree) fastest_.push_back(sum(nodes, is_inside, degree));
    for (const int node : nodes) is_inside[static_cast<size_t>(node)] = 0;
    return true;
  }

  Fastest sum(const std::vector<int>& nodes, const std::vector<char>& is_inside, size_t degree) const {
    Fastest sum;
    sum.time = 0;
    for (const int node : nodes) {
      const auto& choices = graph_.nodes[static_cast<size_t>(node)].choices[degree];
      const ParallelChoice* best = nullptr;
      double best_time = kNever;
      double least_per_microbatch = kNever;
      double least_fixed = kNever;
      double least_over_replicas = kNever;
      for (const ParallelChoice& choice : choices) {
        const double time = time_in_stage(graph_, node, choice, is_inside, 1);
        if (time < best_time) {
          best_time = time;
          best = &choice;
        }
        least_per_microbatch = std::min(least_per_microbatch, choice.bytes_per_microbatch);
        least_fixed = std::min(least_fixed, choice.fixed_bytes);
        least_over_replicas = std::min(least_over_replicas, choice.bytes_over_replicas);
      }
      if (best == nullptr) return {};
      sum.time += best_time;
      sum.parameter_bytes += best->parameter_bytes;
      sum.bytes_per_microbatch += best->bytes_per_microbatch;
      sum.fixed_bytes += best->fixed_bytes;
      sum.bytes_over_replicas += best->bytes_over_replicas;
      sum.least_per_microbatch += least_per_microbatch;
      sum.least_fixed += least_fixed;
      sum.least_over_replicas += least_over_replicas;
    }
    return sum;
  }

  const ParallelGraph& graph_;
  const Downsets& sets_;
  Work& work_;
  AlikeStages alike_;
  std::vector<Candidate> candidates_;
  std::vector<Fastest> fastest_;      // (what stages are alike to, degree)
  std::vector<size_t> end_of_above_;  // [above - 1]
};

/// The later stages of a pipeline, down to a border.
struct Label {
  int64_t devices = 0;
  int64_t replicas = 0;
  size_t above = 0;  // the border before
  size_t label = 0;  // and its label
  size_t candidate = 0;
  Spread spread;
};

class Pipeline {
 public:
  Pipeline(const ParallelGraph& graph, const Downsets& sets, Work& work)
      : graph_(graph), sets_(sets), work_(work), candidates_(graph, sets, work), is_inside_(graph.nodes.size(), 0) {
    for (int64_t d = 1; d <= std::min(graph.microbatches, graph.devices); ++d) {
      if (graph.microbatches % d == 0) divisors_.push_back(d);
    }
    for (const ParallelNode& node : graph.nodes) {
      for (const auto& choices : node.choices) {
        for (const ParallelChoice& choice : choices)
          has_one_size_ = has_one_size_ && choice.parameter_bytes == choices.front().parameter_bytes;
      }
    }
  }

  bool build() {
    if (!candidates_.build()) return false;
    // Devices times time that the nodes of a border's set need at least: no stage gets below it.
    least_work_.assign(sets_.size(), 0);
    for (size_t set = 0; set < sets_.size(); ++set) {
      for (size_t node = 0; node < graph_.nodes.size(); ++node) {
        if (sets_.has(set, static_cast<int>(node))) least_work_[set] += least_work_of(graph_.nodes[node]);
      }
    }
    return true;
  }

  double least_work() const { return least_work_.back(); }

  /// A pipeline whose stages take at most `time` a sample; none: there is none, or no work is left. `is_relaxed` takes
  /// the bound of every stage for its cost: then none means that there is none whatever is chosen.
  bool reach(double time, bool is_relaxed) {
    reached_ = time;
    labels_.assign(sets_.size(), {});
    labels_.back().push_back({});
    for (size_t above = sets_.size() - 1; above > 0; --above) {
      if (labels_[above].empty()) continue;
      for (const Candidate& candidate : candidates_.of(above)) {
        for (size_t degree = 0; degree < graph_.degrees.size(); ++degree) {
          if (!extend(candidate, degree, time, is_relaxed)) return false;
        }
      }
    }
    return !labels_.front().empty();
  }

  /// The stages of the pipeline that reach() found.
  ParallelResult stages() {
    ParallelResult result;
    result.fits = true;
    const Label* label = &labels_.front().front();
    size_t below = 0;
    int64_t device = 0;
    while (below + 1 < sets_.size()) {
      ParallelStage stage;
      stage.nodes = sets_.nodes_between(label->above, below);
      const StageCost cost = weigh(stage.nodes, label->spread, reached_);
      stage.choices = cost.choices;
      stage.degree = graph_.degrees[label->spread.degree];
      stage.replicas = label->spread.replicas;
      stage.in_flight = label->spread.in_flight;
      stage.first_device = device;
      stage.time = cost.time;
      stage.memory_bytes = cost.memory_bytes;
      device += stage.degree * stage.replicas;
      result.time = std::max(result.time, stage.time);
      result.stages.push_back(std::move(stage));
      below = label->above;
      label = &labels_[label->above][label->label];
    }
    return result;
  }

 private:
  double least_work_of(const ParallelNode& node) const {
    double least = kNever;
    for (size_t degree = 0; degree < node.choices.size(); ++degree) {
      for (const ParallelChoice& choice : node.choices[degree])
        least = std::min(least, choice.time * graph_.degrees[degree]);
    }
    return least;
  }

  /// @return false when no work is left.
  bool extend(const Candidate& candidate, size_t degree, double time, bool is_relaxed) {
    const Fastest& fastest = candidates_.fastest(candidate, degree);
    if (fastest.time == kNever) return true;
    const int64_t width = graph_.degrees[degree];
    // The least number of replicas that could be fast enough.
    const double wanted = fastest.time / time * (1 - kSameTime);
    const auto first = std::lower_bound(divisors_.begin(), divisors_.end(), wanted,
                                        [](int64_t d, double least) { return static_cast<double>(d) < least; });
    for (size_t l = 0; l < labels_[candidate.above].size(); ++l) {
      const Label label = labels_[candidate.above][l];
      for (auto d = first; d != divisors_.end(); ++d) {
        const int64_t devices = label.devices + *d * width;
        const int64_t replicas = label.replicas + *d;
        if (devices > graph_.devices || replicas > graph_.microbatches) break;
        const auto left = static_cast<double>(graph_.devices - devices);
        if (least_work_[candidate.below] > left * time * (1 + kSameTime)) break;
        if (!work_.spend(kTryUnits)) return false;
        const Spread spread{degree, *d, (replicas + *d - 1) / *d};
        if (time_of(candidate, fastest, spread, time, is_relaxed) > time) continue;
        // More replicas of this stage would cost devices, and memory of the stages before.
        add(labels_[candidate.below], {devices, replicas, candidate.above, l, candidates_.index_of(candidate), spread});
        break;
      }
    }
    return true;
  }

  /// Time of a sample in the stage, or its bound, exact enough to tell whether it is at most `limit`.
  double time_of(const Candidate& candidate, const Fastest& fastest, const Spread& spread, double limit,
                 bool is_relaxed) {
    const auto in_flight = static_cast<double>(spread.in_flight);
    const auto d = static_cast<double>(spread.replicas);
    const double least_bytes =
        fastest.least_per_microbatch * in_flight + fastest.least_fixed + fastest.least_over_replicas / d;
    if (least_bytes > graph_.memory_bytes * (1 + kSameTime)) return kNever;
    const double bytes =
        fastest.bytes_per_microbatch * in_flight + fastest.fixed_bytes + fastest.bytes_over_replicas / d;
    if (bytes <= graph_.memory_bytes && has_one_size_) {
      const double reduced = 4 * (d - 1) * fastest.parameter_bytes / d / static_cast<double>(graph_.microbatches);
      return fastest.time / d + reduced / graph_.bytes_per_time;
    }
    const auto [it, is_new] =
        known_.try_emplace(Key{candidate.alike, spread.degree, spread.replicas, spread.in_flight});
    Known& known = it->second;
    const bool is_between = known.bound <= limit && limit < known.time && !known.is_exact;
    if (is_new || is_between) {
      const std::vector<int> nodes = sets_.nodes_between(candidate.above, candidate.below);
      work_.spend(kCostUnits * static_cast<int64_t>(nodes.size()));
      const StageCost stage = weigh(nodes, spread, limit);
      known = {stage.time, stage.time_bound, is_between};
    }
    return is_relaxed ? known.bound : known.time;
  }

  StageCost weigh(const std::vector<int>& nodes, const Spread& spread, double limit) {
    for (const int node : nodes) is_inside_[static_cast<size_t>(node)] = 1;
    StageCost stage = cost_of_stage(graph_, nodes, is_inside_, spread, limit);
    for (const int node : nodes) is_inside_[static_cast<size_t>(node)] = 0;
    return stage;
  }

  /// Keeps the labels that no other undercuts, in both numbers.
  static void add(std::vector<Label>& labels, const Label& label) {
    for (const Label& other : labels) {
      if (other.devices <= label.devices && other.replicas <= label.replicas) return;
    }
    std::erase_if(
        labels, [&](const Label& other) { return other.devices >= label.devices && other.replicas >= label.replicas; });
    labels.push_back(label);
  }

  struct Key {
    size_t alike;
    size_t degree;
    int64_t replicas;
    int64_t in_flight;
    bool operator==(const Key&) const = default;
  };
  struct HashOfKey {
    size_t operator()(const Key& key) const {
      uint64_t hash = key.alike;
      for (const uint64_t part : {static_cast<uint64_t>(key.degree), static_cast<uint64_t>(key.replicas),
                                  static_cast<uint64_t>(key.in_flight)})
        hash = mix_bits(hash) ^ part;
      return mix_bits(hash);
    }
  };
  struct Known {
    double time = kNever;
    double bound = kNever;
    bool is_exact = false;  // or there are too many ways to be so
  };

  const ParallelGraph& graph_;
  const Downsets& sets_;
  Work& work_;
  Candidates candidates_;
  std::vector<int64_t> divisors_;
  bool has_one_size_ = true;        // choices of a node reduce the same bytes: the fastest one is so for any replicas
  std::vector<double> least_work_;  // [set]
  std::vector<std::vector<Label>> labels_;  // [set]
  double reached_ = kNever;                 // what reach() was last asked for
  std::unordered_map<Key, Known, HashOfKey> known_;
  std::vector<char> is_inside_;
};

/// More than any stage takes on one replica, whatever is chosen.
double most_time(const ParallelGraph& graph) {
  const std::vector<char> is_inside(graph.nodes.size(), 0);
  double sum = 0;
  for (size_t node = 0; node < graph.nodes.size(); ++node) {
    double most = 0;
    for (const auto& choices : graph.nodes[node].choices) {
      for (const ParallelChoice& choice : choices) {
        const double reduced = choice.parameter_bytes / graph.bytes_per_time;
        most = std::max(most, 4 * reduced + time_in_stage(graph, static_cast<int>(node), choice, is_inside, 1));
      }
    }
    sum += most;
  }
  return 2 * sum + std::numeric_limits<double>::min();
}

/// The least time that is reached, to kTimePrecision, between `bound`, below which nothing is, and anything.
ParallelResult fastest_pipeline(Pipeline& pipeline, double bound, double most, Work& work) {
  ParallelResult best;
  // From below: what is far too slow for the best pipeline has by far the most stages.
  double least = bound;
  for (double slack = kFirstSlack; !best.fits; slack *= 2) {
    const double limit = bound > 0 ? std::min(bound * (1 + slack), most) : most;
    if (pipeline.reach(limit, false)) {
      best = pipeline.stages();
    } else if (limit == most || work.is_over()) {
      return best;
    } else {
      least = limit;
    }
  }
  while (best.time - least > kTimePrecision * best.time && !work.is_over()) {
    const double middle = least + (best.time - least) / 2;
    if (pipeline.reach(middle, false)) {
      best = pipeline.stages();
    } else {
      least = middle;
    }
  }
  return best;
}

/// The time that no choices reach, as far as the bounds of single stages tell.
double time_bound(Pipeline& pipeline, double bound, double best, Work& work) {
  const double nearly = best * (1 - kSameTime);
  if (!pipeline.reach(nearly, true)) return work.is_over() ? bound : best;
  double least = bound;
  double reached = nearly;
  while (reached - least > kTimePrecision * best) {
    const double middle = least + (reached - least) / 2;
    const bool is_reached = pipeline.reach(middle, true);
    if (work.is_over()) break;
    (is_reached ? reached : least) = middle;
  }
  return least;
}

/// An order of the nodes without backward edges: the newest that is ready first, or now and then any other.
std::vector<int> random_order(const ParallelGraph& graph, uint64_t seed) {
  constexpr uint64_t kOneIn = 4;
  std::vector<size_t> waits_for;
  std::vector<int> ready;
  for (const ParallelNode& node : graph.nodes) {
    if (node.in.empty()) ready.push_back(static_cast<int>(waits_for.size()));
    waits_for.push_back(node.in.size());
  }
  std::vector<int> order;
  uint64_t state = mix_bits(seed + 1);
  while (!ready.empty()) {
    state = mix_bits(state + 1);
    const bool picks = seed > 0 && state % kOneIn == 0;
    const size_t at = picks ? (state / kOneIn) % ready.size() : ready.size() - 1;
    const int node = ready[at];
    ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(at));
    order.push_back(node);
    for (const int e : graph.nodes[static_cast<size_t>(node)].out) {
      const int to = graph.edges[static_cast<size_t>(e)].to;
      if (--waits_for[static_cast<size_t>(to)] == 0) ready.push_back(to);
    }
  }
  return order;
}

}  // namespace

ParallelResult search_stages(const ParallelGraph& graph, Work& work) {
  const double most = most_time(graph);
  Downsets sets;
  if (sets.make_all(graph, kMostSets)) {
    Pipeline pipeline(graph, sets, work);
    if (pipeline.build()) {
      const double bound = pipeline.least_work() / static_cast<double>(graph.devices);
      ParallelResult best = fastest_pipeline(pipeline, bound, most, work);
      best.method = "exact program over borders between stages";
      if (best.fits) {
        best.lower_bound = time_bound(pipeline, bound, best.time, work);
        best.is_optimal = best.lower_bound >= best.time * (1 - kSameTime);
      } else {
        best.is_optimal = !pipeline.reach(most, true) && !work.is_over();
      }
      return best;
    }
  }
  ParallelResult best;
  double bound = 0;
  for (int seed = 0; seed < kOrders && (seed == 0 || !work.is_over()); ++seed) {
    Downsets prefixes;
    prefixes.make_prefixes(graph, random_order(graph, static_cast<uint64_t>(seed)));
    Pipeline pipeline(graph, prefixes, work);
    if (!pipeline.build()) break;
    bound = pipeline.least_work() / static_cast<double>(graph.devices);
    ParallelResult result = fastest_pipeline(pipeline, bound, most, work);
    if (result.fits && (!best.fits || result.time < best.time)) best = std::move(result);
  }
  best.lower_bound = bound;
  best.method = "the exact program on linear orders";
  return best;
}

}  // namespace mpc::place
