#include "passes/overlap_offload.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "compiler/base/checked.h"
#include "compiler/plan/host_memory.h"
#include "compiler/plan/slices.h"

namespace mpc {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

/// A send with its recv, and where in the order the two are to stand.
struct Copy {
  size_t at = 0;            // the send
  size_t before = 0;        // the instruction that they go before; at: they stay
  PlanIndex slice = kNone;  // on the device
  PlanIndex there = kNone;  // in host memory
  int64_t bytes = 0;
  double seconds = 0;
};

class Overlap {
 public:
  Overlap(Plan& plan, const std::vector<int64_t>& slack_bytes)
      : plan_(plan),
        slack_bytes_(slack_bytes),
        first_(plan.slices.size(), kUntouched),
        last_(plan.slices.size(), 0),
        there_at_(plan.slices.size(), 0),
        fetched_at_(plan.slices.size(), 0) {}

  void run() {
    find_lives();
    std::vector<Copy> copies;
    for (size_t d = 0; d < plan_.devices.size(); ++d) {
      if (is_host_memory(plan_.devices[d])) continue;
      enter(DeviceId(d));
      std::vector<Copy> out = copies_of(true);
      std::vector<Copy> back = copies_of(false);
      for (const Copy& copy : back) fetched_at_[copy.there] = copy.at;
      delay(out);
      for (const Copy& copy : out) there_at_[copy.there] = std::max(copy.before, copy.at + 2);
      hasten(back);
      copies.insert(copies.end(), out.begin(), out.end());
      copies.insert(copies.end(), back.begin(), back.end());
    }
    reorder(copies);
  }

 private:
  static constexpr size_t kUntouched = static_cast<size_t>(-1);

  void find_lives() {
    for (size_t i = 0; i < plan_.instructions.size(); ++i) {
      // A send reads until its recv, the next instruction, is done.
      const size_t end = plan_.instructions[i].action == Action::send ? i + 1 : i;
      for_each_slice(plan_.instructions[i], [&](PlanIndex s) {
        if (first_[s] == kUntouched) first_[s] = i;
        last_[s] = std::max(last_[s], end);
      });
    }
  }

  // The device's runs, and the bytes that are live there. What stays for the whole step is in none of the sums.
  void enter(DeviceId device) {
    device_ = device;
    runs_.clear();
    for (size_t i = 0; i < plan_.instructions.size(); ++i) {
      const Instruction& instruction = plan_.instructions[i];
      if (instruction.action == Action::run && plan_.queues[instruction.queue].device == device) runs_.push_back(i);
    }
    live_bytes_.assign(plan_.instructions.size() + 1, 0);
    for (size_t s = 0; s < plan_.slices.size(); ++s) {
      const PlanSlice& slice = plan_.slices[s];
      if (slice.device != device || slice.microbatch == kPerStep || first_[s] == kUntouched) continue;
      live_bytes_[first_[s]] += aligned_bytes(slice);
      live_bytes_[last_[s] + 1] -= aligned_bytes(slice);
    }
    int64_t live = 0;
    int64_t most = 0;
    for (int64_t& bytes : live_bytes_) {
      bytes = live += bytes;
      most = std::max(most, live);
    }
    most_bytes_ = most + slack_bytes_[device.index()];
  }

  static int64_t aligned_bytes(const PlanSlice& slice) { return align_up(slice.bytes, kSliceAlignment); }

  std::vector<Copy> copies_of(bool is_out) const {
    std::vector<Copy> copies;
    for (size_t i = 0; i + 1 < plan_.instructions.size(); ++i) {
      const Instruction& send = plan_.instructions[i];
      if (send.action != Action::send) continue;
      const PlanTransfer& transfer = plan_.transfers[send.index];
      const DeviceId here = is_out ? transfer.from : transfer.to;
      const DeviceId there = is_out ? transfer.to : transfer.from;
      if (here != device_ || !is_host_memory(plan_.devices[there.index()])) continue;
      Copy copy{i, i, send.reads.front(), plan_.instructions[i + 1].writes.front()};
      if (!is_out) std::swap(copy.slice, copy.there);
      copy.bytes = aligned_bytes(plan_.slices[copy.slice]);
      copy.seconds = transfer.seconds[static_cast<size_t>(plan_.variant_of(send.microbatch))];
      copies.push_back(copy);
    }
    return copies;
  }

  // The device's first run at or behind an instruction.
  std::vector<size_t>::const_iterator run_at(size_t instruction) const {
    return std::ranges::lower_bound(runs_, instruction);
  }
  double start_s(std::vector<size_t>::const_iterator run) const {
    return run == runs_.end() ? kNever : plan_.instructions[*run].start_s;
  }

  void delay(std::vector<Copy>& copies) {
    double link_free_s = 0;
    for (Copy& copy : copies) {
      auto run = run_at(copy.at);
      if (run == runs_.end()) continue;
      link_free_s = std::max(link_free_s, start_s(run)) + copy.seconds;
      while (start_s(run) < link_free_s) ++run;
      const size_t fetch = fetched_at_[copy.there];
      const size_t wanted = run == runs_.end() ? fetch : std::min(*run, fetch);
      size_t end = copy.at + 1;
      while (end + 1 < wanted && (end + 1 <= last_[copy.slice] || has_room(end + 1, copy.bytes))) {
        if (++end > last_[copy.slice]) live_bytes_[end] += copy.bytes;
      }
      if (end > copy.at + 1) copy.before = end + 1;
    }
    // Copies of a link stay in their order.
    for (size_t i = copies.size(); i-- > 1;) {
      if (copies[i - 1].before > copies[i].before) copies[i - 1].before = copies[i].before;
    }
    for (Copy& copy : copies) copy.before = apart_from_pairs(copy.before);
  }

  void hasten(std::vector<Copy>& copies) {
    std::vector<double> wanted_s(copies.size());
    double link_taken_s = kNever;
    for (size_t i = copies.size(); i-- > 0;) {
      link_taken_s = std::min(link_taken_s, start_s(run_at(copies[i].at))) - copies[i].seconds;
      wanted_s[i] = link_taken_s;
    }
    size_t earliest = 0;
    for (size_t i = 0; i < copies.size(); ++i) {
      Copy& copy = copies[i];
      const auto later =
          std::ranges::upper_bound(runs_, wanted_s[i], {}, [&](size_t run) { return plan_.instructions[run].start_s; });
      const size_t wanted = later == runs_.begin() ? 0 : *std::prev(later);
      earliest = std::max(earliest, there_at_[copy.there]);
      while (copy.before > std::max(wanted, earliest) && has_room(copy.before - 1, copy.bytes)) {
        live_bytes_[--copy.before] += copy.bytes;
      }
      copy.before = std::max(earliest, apart_from_pairs(copy.before));
      earliest = copy.before;
    }
  }

  bool has_room(size_t instruction, int64_t bytes) const { return live_bytes_[instruction] + bytes <= most_bytes_; }

  // A send and its recv stay adjacent.
  size_t apart_from_pairs(size_t before) const {
    const bool is_recv = before < plan_.instructions.size() && plan_.instructions[before].action == Action::recv;
    return is_recv ? before - 1 : before;
  }

  // Copies to the host go before copies back that go to the same place: some bring back what those sent.
  void reorder(std::vector<Copy>& copies) {
    std::vector<bool> is_moved(plan_.instructions.size(), false);
    std::erase_if(copies, [](const Copy& copy) { return copy.before == copy.at; });
    for (const Copy& copy : copies) is_moved[copy.at] = is_moved[copy.at + 1] = true;
    const auto is_back = [&](const Copy& copy) {
      return is_host_memory(plan_.devices[plan_.transfers[plan_.instructions[copy.at].index].from.index()]);
    };
    std::ranges::stable_sort(copies, {}, [&](const Copy& copy) { return std::pair(copy.before, is_back(copy)); });
    std::vector<Instruction> order;
    order.reserve(plan_.instructions.size());
    size_t next = 0;
    for (size_t i = 0; i <= plan_.instructions.size(); ++i) {
      for (; next < copies.size() && copies[next].before == i; ++next) {
        order.push_back(std::move(plan_.instructions[copies[next].at]));
        order.push_back(std::move(plan_.instructions[copies[next].at + 1]));
      }
      if (i < plan_.instructions.size() && !is_moved[i]) order.push_back(std::move(plan_.instructions[i]));
    }
    plan_.instructions = std::move(order);
  }

  Plan& plan_;
  const std::vector<int64_t>& slack_bytes_;
  std::vector<size_t> first_;  // [slice] the instructions between which it lives
  std::vector<size_t> last_;
  std::vector<size_t> there_at_;    // [slice in host memory] what comes behind the copy there
  std::vector<size_t> fetched_at_;  // [slice in host memory] the copy back
  DeviceId device_;
  std::vector<size_t> runs_;         // of the device
  std::vector<int64_t> live_bytes_;  // [instruction] on the device
  int64_t most_bytes_ = 0;
};

}  // namespace

void overlap_offload(Plan& plan, const std::vector<int64_t>& slack_bytes) {
  Overlap(plan, slack_bytes).run();
}

}  // namespace mpc
