#include "passes/place/parallel/downsets.h"

#include <algorithm>
#include <map>

namespace mpc::place {

bool Downsets::make_all(const ParallelGraph& graph, size_t most) {
  const size_t count = graph.nodes.size();
  words_ = (count + 63) / 64;
  bits_.assign(words_, 0);
  struct Step {
    size_t above;
    Link link;
  };
  std::vector<Step> steps;
  std::map<std::vector<uint64_t>, size_t> index;
  const auto is_ready = [&](size_t set, const ParallelNode& node) {
    return std::all_of(node.in.begin(), node.in.end(),
                       [&](int e) { return has(set, graph.edges[static_cast<size_t>(e)].from); });
  };
  // Sets are made in the order of their sizes, so those one larger than the present one are all the index must know.
  size_t made = 1;
  size_t end_of_size = 1;
  for (size_t set = 0; set < made; ++set) {
    if (set == end_of_size) {
      index.clear();
      end_of_size = made;
    }
    for (size_t node = 0; node < count; ++node) {
      if (has(set, static_cast<int>(node)) || !is_ready(set, graph.nodes[node])) continue;
      std::vector<uint64_t> bits(bits_.begin() + static_cast<std::ptrdiff_t>(set * words_),
                                 bits_.begin() + static_cast<std::ptrdiff_t>((set + 1) * words_));
      bits[node / 64] |= uint64_t{1} << (node % 64);
      const auto [it, is_new] = index.try_emplace(bits, made);
      if (is_new) {
        if (++made > most) return false;
        bits_.insert(bits_.end(), bits.begin(), bits.end());
      }
      steps.push_back({it->second, {set, static_cast<int>(node)}});
    }
  }
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.above < b.above; });
  links_of_.assign(made + 1, 0);
  for (const Step& step : steps) {
    ++links_of_[step.above + 1];
    links_.push_back(step.link);
  }
  for (size_t set = 0; set < made; ++set) links_of_[set + 1] += links_of_[set];
  return true;
}

void Downsets::make_prefixes(const ParallelGraph& graph, const std::vector<int>& order) {
  const size_t count = graph.nodes.size();
  words_ = (count + 63) / 64;
  bits_.assign(words_ * (count + 1), 0);
  links_.clear();
  links_of_ = {0, 0};
  for (size_t i = 0; i < count; ++i) {
    const auto at = bits_.begin() + static_cast<std::ptrdiff_t>(i * words_);
    std::copy_n(at, words_, at + static_cast<std::ptrdiff_t>(words_));
    const auto node = static_cast<size_t>(order[i]);
    bits_[(i + 1) * words_ + node / 64] |= uint64_t{1} << (node % 64);
    links_.push_back({i, order[i]});
    links_of_.push_back(links_.size());
  }
}

}  // namespace mpc::place
