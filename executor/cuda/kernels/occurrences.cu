#include "executor/cuda/kernels/occurrences.h"

#include <cstdint>

namespace mpc::cuda {
namespace {

struct ComparePositions {
  Occurrences::Lists lists;
  int64_t count;
  MPC_DEVICE void operator()(Block& block, int64_t j) const {
    const int64_t* targets = lists.targets;
    const int64_t mine = targets[j];
    const int64_t none = count;
    const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
    const int64_t after = block.reduce(
        count - j - 1, none, [&](int64_t k) { return targets[j + 1 + k] == mine ? j + 1 + k : none; }, least);
    const int64_t before = block.reduce(
        j, none, [&](int64_t k) { return targets[k] == mine ? k : none; }, least);
    block.for_each(1, [&](int64_t) {
      lists.next[j] = after == none ? -1 : after;
      lists.is_first[j] = before == none ? 1 : 0;
    });
  }
};

struct Entry {
  int64_t target;
  int64_t position;
};

struct MakeEntries {
  const int64_t* targets;
  Entry* entries;
  int64_t count;  // behind it: entries that are sorted to the end
  MPC_DEVICE void operator()(int64_t i) const { entries[i] = {i < count ? targets[i] : INT64_MAX, i}; }
};

/// One step of the network: compares entries `stride` apart, in runs of `size` that ascend and descend by turns.
struct CompareExchange {
  Entry* entries;
  int64_t size;
  int64_t stride;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t low = i / stride * 2 * stride + i % stride;
    const Entry a = entries[low];
    const Entry b = entries[low + stride];
    const bool is_behind = a.target > b.target || (a.target == b.target && a.position > b.position);
    if (is_behind != ((low & size) == 0)) return;
    entries[low] = b;
    entries[low + stride] = a;
  }
};

struct LinkEntries {
  const Entry* entries;
  Occurrences::Lists lists;
  int64_t count;
  MPC_DEVICE void operator()(int64_t k) const {
    const Entry mine = entries[k];
    const bool is_last = k + 1 == count || entries[k + 1].target != mine.target;
    lists.next[mine.position] = is_last ? -1 : entries[k + 1].position;
    lists.is_first[mine.position] = k == 0 || entries[k - 1].target != mine.target ? 1 : 0;
  }
};

}  // namespace

Occurrences::Occurrences(int64_t count) : count_(count), padded_(0) {
  if (count <= kMostCompared) return;
  for (padded_ = 1; padded_ < count;) padded_ *= 2;
}

Occurrences::Lists Occurrences::lists(void* workspace) const {
  int64_t* targets = static_cast<int64_t*>(workspace);
  return {targets, targets + count_, targets + 2 * count_};
}

int64_t Occurrences::workspace_bytes() const {
  // An even number of lists keeps the entries aligned to their 16 bytes.
  return 4 * count_ * static_cast<int64_t>(sizeof(int64_t)) + padded_ * static_cast<int64_t>(sizeof(Entry));
}

void Occurrences::find(Stream stream, void* workspace) const {
  const Lists found = lists(workspace);
  if (padded_ == 0) {
    for_each_block(stream, count_, ComparePositions{found, count_}, "positions");
    return;
  }
  Entry* entries = reinterpret_cast<Entry*>(found.targets + 4 * count_);
  for_each(stream, padded_, MakeEntries{found.targets, entries, count_}, "positions");
  for (int64_t size = 2; size <= padded_; size *= 2) {
    for (int64_t stride = size / 2; stride > 0; stride /= 2) {
      for_each(stream, padded_ / 2, CompareExchange{entries, size, stride}, "sort of positions");
    }
  }
  for_each(stream, count_, LinkEntries{entries, found, count_}, "positions");
}

}  // namespace mpc::cuda
