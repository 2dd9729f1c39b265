#include "passes/fit_memory.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "compiler/base/text.h"
#include "compiler/cost/estimate.h"
#include "compiler/plan/host_memory.h"
#include "compiler/plan/simulate.h"
#include "passes/levels.h"
#include "passes/recompute.h"
#include "passes/synchronize.h"

namespace mpc {
namespace {

using Bytes = std::vector<int64_t>;  // [device]

// All that can be sent: more than any device holds, and sums of it do not overflow.
constexpr int64_t kEverything = int64_t{1} << 60;
// Halvings between nothing and everything.
constexpr int kBisections = 6;
// More than fits just so, as a multiple of it.
constexpr double kMore[] = {1.3, 1.8};
// More in host memory has to save at least this, and less may cost no more than rounding does.
constexpr double kWorthMore = 0.999;
constexpr double kAsShort = 1 + 1e-9;
// Ways of both kinds that are made, and attempts to have each of them fit.
constexpr size_t kMostMixed = 3;
constexpr int kMostRaises = 4;
// A step that is this much longer than without limits is as good as one.
constexpr double kAsGood = 1.005;

double step_seconds(Plan plan) {
  synchronize(plan);
  return simulate(plan).step_seconds;
}

class MemoryFitter {
 public:
  MemoryFitter(Attempt& best, const FitRequest& request, const LowerAttempt& lower)
      : best_(best), request_(request), lower_(lower), start_(best), unlimited_s_(step_seconds(best.plan)) {
    for (const PlanDevice& device : start_.plan.devices) {
      excess_.push_back(device.arena_bytes - device.capacity_bytes);
      is_tight_.push_back(excess_.back() > 0);
    }
  }

  void run() {
    const PlanOptions& options = request_.options;
    if (unlimited_s_ >= request_.to_beat_s) return;
    if (options.may_recompute) ways_ = recomputations(request_.placed, request_.cluster, is_tight_);
    if (unlimited_s_ + promised_seconds() >= request_.to_beat_s) return;
    std::optional<Bytes> offloaded;
    if (options.may_offload) offloaded = offload_alone();
    const bool is_done = best_.excess_bytes == 0 && best_s_ <= kAsGood * unlimited_s_;
    if (options.may_recompute && !is_done) recompute_alone();
    if (offloaded && options.may_recompute && !is_done) do_both(*offloaded);
    if (is_replaced_) finish();
  }

 private:
  Attempt lowered(const Recomputation* way, Bytes offload_bytes) const {
    Attempt attempt;
    attempt.placement = start_.placement;
    if (way != nullptr) attempt.dropped = way->dropped;
    attempt.offload_bytes = std::move(offload_bytes);
    lower_(attempt, PackEffort::quick);
    return attempt;
  }

  // What was one of many was packed like one. How it is packed decides between ways that are almost alike, so the best
  // of each means is packed again.
  void finish() {
    std::optional<Attempt> best;
    const Recomputation* best_way = nullptr;
    for (const std::optional<Candidate>& candidate : of_means_) {
      if (!candidate || candidate->excess_bytes > best_.excess_bytes) continue;
      Attempt again;
      again.placement = best_.placement;
      if (candidate->way != nullptr) again.dropped = candidate->way->dropped;
      again.offload_bytes = candidate->offload_bytes;
      lower_(again, PackEffort::thorough);
      again.step_seconds = step_seconds(again.plan);
      const auto value = [](const Attempt& attempt) { return std::pair(attempt.excess_bytes, attempt.step_seconds); };
      if (best && value(*best) <= value(again)) continue;
      best = std::move(again);
      best_way = candidate->way;
    }
    if (best->excess_bytes <= best_.excess_bytes) {
      best_ = std::move(*best);
      best_way_ = best_way;
    }
    if (best_way_ != nullptr) add_recompute_note(*best_way_);
    if (best_.offloaded.values > 0) add_offload_note();
  }

  struct Candidate {
    const Recomputation* way = nullptr;
    Bytes offload_bytes;
    int64_t excess_bytes = 0;
    double seconds = 0;  // of the step, as it is packed for now
  };

  static size_t means_of(const Recomputation* way, const Attempt& attempt) {
    return way == nullptr ? 0 : attempt.offload_bytes.empty() ? 1 : 2;
  }

  // Keeps an attempt that fits better than the best one, or has at most `share` of its seconds.
  void consider(const Recomputation* way, Attempt attempt, double share = 1) {
    if (attempt.excess_bytes > best_.excess_bytes) return;
    const double seconds = step_seconds(attempt.plan);
    const bool is_best = attempt.excess_bytes < best_.excess_bytes || seconds < share * best_s_;
    std::optional<Candidate>& of_means = of_means_[means_of(way, attempt)];
    const bool is_best_of_means =
        !of_means || std::pair(attempt.excess_bytes, seconds) < std::pair(of_means->excess_bytes, of_means->seconds);
    // Where only copies are made, more of them has to be worth it.
    if (is_best || (way != nullptr && is_best_of_means))
      of_means = {way, attempt.offload_bytes, attempt.excess_bytes, seconds};
    if (!is_best) return;
    best_s_ = seconds;
    best_ = std::move(attempt);
    best_way_ = way;
    is_replaced_ = true;
  }

  void recompute_alone() {
    for (const Recomputation& way : ways_) {
      bool may_fit = true;
      for (size_t d = 0; d < excess_.size(); ++d)
        may_fit = may_fit && (!is_tight_[d] || way.saved_bytes[d] * request_.microbatches >= excess_[d]);
      if (!may_fit) continue;
      Attempt attempt = lowered(&way, {});
      const bool fits = attempt.excess_bytes == 0;
      consider(&way, std::move(attempt));
      if (fits) return;
    }
  }

  /// @return the bytes that have to go when nothing is computed again; nothing when all is not enough.
  std::optional<Bytes> offload_alone() {
    const std::optional<Bytes> least = least_offload();
    if (!least) return std::nullopt;
    for (const double factor : kMore) {
      Bytes more = *least;
      for (int64_t& bytes : more) bytes = static_cast<int64_t>(factor * static_cast<double>(bytes));
      consider(nullptr, lowered(nullptr, std::move(more)), kWorthMore);
    }
    return least;
  }

  // The least that has to go for the devices, whether or not host memory can take it.
  std::optional<Bytes> least_offload() {
    Bytes most(is_tight_.size(), 0);
    for (size_t d = 0; d < most.size(); ++d) most[d] = is_tight_[d] ? kEverything : 0;
    Attempt all = lowered(nullptr, most);
    Bytes enough = all.offloaded.bytes;
    const bool fits = fits_on_devices(all.plan);
    consider(nullptr, std::move(all));
    if (!fits) return std::nullopt;
    Bytes too_little(enough.size(), 0);
    for (int i = 0; i < kBisections; ++i) {
      Bytes middle = too_little;
      for (size_t d = 0; d < middle.size(); ++d) middle[d] += (enough[d] - too_little[d]) / 2;
      Attempt attempt = lowered(nullptr, middle);
      for (size_t d = 0; d < middle.size(); ++d) {
        const PlanDevice& device = attempt.plan.devices[d];
        (device.arena_bytes <= device.capacity_bytes ? enough : too_little)[d] = middle[d];
      }
      consider(nullptr, std::move(attempt), kAsShort);
    }
    return enough;
  }

  static bool fits_on_devices(const Plan& plan) {
    return std::ranges::all_of(plan.devices, [](const PlanDevice& device) {
      return is_host_memory(device) || device.arena_bytes <= device.capacity_bytes;
    });
  }

  void do_both(const Bytes& offloaded) {
    std::vector<std::pair<double, const Recomputation*>> ways;
    for (const Recomputation& way : ways_) {
      const Bytes left = left_over(offloaded, way);
      int64_t bytes = 0;
      for (const int64_t of_device : left) bytes += of_device;
      // All is computed again; or host memory cannot take the rest even of one micro-batch.
      if (bytes == 0 || bytes > request_.options.host_memory_bytes) continue;
      ways.emplace_back((way.seconds + exposed_seconds(left)) * request_.microbatches, &way);
    }
    std::ranges::stable_sort(ways, {}, [](const auto& entry) { return entry.first; });
    for (size_t i = 0; i < std::min(kMostMixed, ways.size()); ++i)
      raise_until_it_fits(*ways[i].second, left_over(offloaded, *ways[i].second));
  }

  static Bytes left_over(const Bytes& needed, const Recomputation& way) {
    Bytes left = needed;
    for (size_t d = 0; d < left.size(); ++d) left[d] = std::max<int64_t>(0, left[d] - way.saved_bytes[d]);
    return left;
  }

  void raise_until_it_fits(const Recomputation& way, Bytes bytes) {
    for (int i = 0; i < kMostRaises; ++i) {
      Attempt attempt = lowered(&way, bytes);
      const bool fits = attempt.excess_bytes == 0;
      for (size_t d = 0; d < bytes.size(); ++d) {
        const PlanDevice& device = attempt.plan.devices[d];
        const int64_t excess = std::max<int64_t>(0, device.arena_bytes - device.capacity_bytes);
        if (excess > 0) bytes[d] += std::max(bytes[d] / 4, excess);
      }
      consider(&way, std::move(attempt));
      if (fits) return;
    }
  }

  // What a step is expected to take beyond the one without limits: by the cheaper means, spread over all devices.
  double promised_seconds() {
    double seconds = std::numeric_limits<double>::infinity();
    Bytes needed(excess_.size(), 0);
    for (size_t d = 0; d < needed.size(); ++d)
      needed[d] = std::max<int64_t>(0, excess_[d]) / std::max(1, request_.microbatches);
    const auto is_enough = [&](const Recomputation& way) {
      return std::ranges::equal(left_over(needed, way), Bytes(needed.size(), 0));
    };
    const auto cheapest = std::ranges::find_if(ways_, is_enough);
    if (cheapest != ways_.end()) seconds = cheapest->seconds;
    if (request_.options.may_offload) seconds = std::min(seconds, exposed_seconds(needed));
    return seconds * request_.microbatches / static_cast<double>(excess_.size());
  }

  // What copies of a micro-batch take longer than the passes that they run beside, all devices together.
  double exposed_seconds(const Bytes& bytes) {
    if (pass_seconds_.empty()) find_pass_seconds();
    double exposed = 0;
    for (size_t d = 0; d < bytes.size(); ++d) {
      const double copy_s = static_cast<double>(bytes[d]) / request_.cluster.devices[d].rates.host_bytes_per_second;
      for (const double pass_s : {pass_seconds_[d].first, pass_seconds_[d].second})
        exposed += std::max(0.0, copy_s - pass_s);
    }
    return exposed;
  }

  void find_pass_seconds() {
    pass_seconds_.assign(is_tight_.size(), {0, 0});
    for (int i = 0; i < request_.placed.node_count(); ++i) {
      const Node& node = request_.placed.node(NodeId(i));
      if (node.rate == Rate::per_step) continue;
      auto& [forward_s, backward_s] = pass_seconds_[node.device.index()];
      (phase_group(node.phase) == 0 ? forward_s : backward_s) +=
          node_seconds(request_.placed, NodeId(i), request_.cluster.device(node.device));
    }
  }

  std::string bytes_by_device(const Bytes& bytes) const {
    std::string text;
    for (size_t d = 0; d < bytes.size(); ++d) {
      if (bytes[d] > 0)
        text +=
            fmt::format("{}{} {}", text.empty() ? "" : ", ", request_.cluster.devices[d].name, bytes_text(bytes[d]));
    }
    return text;
  }

  void add_recompute_note(const Recomputation& way) {
    const auto count = std::ranges::count_if(recompute(request_.placed, way.dropped).nodes(), is_recomputed);
    best_.notes.push_back(
        fmt::format("memory: {} forward nodes are computed again in the backward pass ({} per step on all devices); "
                    "every micro-batch keeps less: {}",
                    count, seconds_text(way.seconds * request_.microbatches), bytes_by_device(way.saved_bytes)));
  }

  void add_offload_note() {
    const Offloaded& offloaded = best_.offloaded;
    best_.notes.push_back(fmt::format(
        "memory: {} activations of every micro-batch wait in host memory between forward and backward pass: {}; "
        "copies take {} per step on all links, the step {} instead of {} if everything fitted",
        offloaded.values, bytes_by_device(offloaded.bytes), seconds_text(offloaded.seconds * request_.microbatches),
        seconds_text(step_seconds(best_.plan)), seconds_text(unlimited_s_)));
  }

  Attempt& best_;
  const FitRequest& request_;
  const LowerAttempt& lower_;
  const Attempt start_;  // nothing is done about what does not fit
  const double unlimited_s_;
  double best_s_ = 0;
  bool is_replaced_ = false;
  const Recomputation* best_way_ = nullptr;
  std::array<std::optional<Candidate>, 3> of_means_;  // host memory alone, recomputation alone, both
  Bytes excess_;
  std::vector<bool> is_tight_;
  std::vector<Recomputation> ways_;                      // the cheapest first
  std::vector<std::pair<double, double>> pass_seconds_;  // [device] forward and backward, per micro-batch
};

}  // namespace

void fit_memory(Attempt& best, const FitRequest& request, const LowerAttempt& lower) {
  MemoryFitter(best, request, lower).run();
}

}  // namespace mpc
