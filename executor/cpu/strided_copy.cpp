#include "executor/cpu/strided_copy.h"

#include <algorithm>
#include <cstring>

#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kTile = 32;      // a tile of 32 x 32 words stays in the first-level cache on both sides
constexpr int64_t kGrain = 32768;  // elements below which a second thread costs more than it saves

template <class Word>
void copy_row(const Word* from, Word* to, const StridedCopy::Dim& dim) {
  if (dim.from_step == 1 && dim.to_step == 1) {
    std::memcpy(to, from, static_cast<size_t>(dim.count) * sizeof(Word));
  } else if (dim.from_step == 0 && dim.to_step == 1) {
    std::fill_n(to, dim.count, *from);
  } else {
    for (int64_t i = 0; i < dim.count; ++i) to[i * dim.to_step] = from[i * dim.from_step];
  }
}

}  // namespace

StridedCopy::StridedCopy(const Shape& shape, const Steps& from_steps, int64_t from_begin, const Steps& to_steps,
                         int64_t to_begin, int64_t element_bytes)
    : from_begin_(from_begin), to_begin_(to_begin), element_bytes_(element_bytes) {
  std::vector<Dim> dims;  // innermost first
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    const size_t i = static_cast<size_t>(axis);
    if (shape[axis] == 1) continue;
    const Dim dim{shape[axis], from_steps[i], to_steps[i]};
    if (!dims.empty() && dim.from_step == dims.back().from_step * dims.back().count &&
        dim.to_step == dims.back().to_step * dims.back().count) {
      dims.back().count *= dim.count;
      continue;
    }
    dims.push_back(dim);
  }
  if (dims.empty()) dims.push_back({shape.elements(), 1, 1});
  block_.push_back(dims.front());
  dims.erase(dims.begin());
  // Where the source runs along another dimension than the result, both are walked together, in tiles.
  if (block_[0].from_step != 1 && block_[0].from_step != 0) {
    const auto along = std::find_if(dims.begin(), dims.end(), [](const Dim& dim) { return dim.from_step == 1; });
    if (along != dims.end()) {
      block_.push_back(*along);
      dims.erase(along);
    }
  }
  outer_.assign(dims.rbegin(), dims.rend());
  for (const Dim& dim : outer_) blocks_ *= dim.count;
}

void StridedCopy::run(const std::byte* from, std::byte* to, int threads) const {
  const auto with = [&](auto word) {
    using Word = decltype(word);
    run_words(reinterpret_cast<const Word*>(from) + from_begin_, reinterpret_cast<Word*>(to) + to_begin_, threads);
  };
  switch (element_bytes_) {
    case 1:
      return with(uint8_t{});
    case 2:
      return with(uint16_t{});
    case 4:
      return with(uint32_t{});
    default:
      return with(uint64_t{});
  }
}

template <class Word>
void StridedCopy::run_words(const Word* from, Word* to, int threads) const {
  int64_t block_elements = 1;
  for (const Dim& dim : block_) block_elements *= dim.count;
  if (block_elements == 0 || blocks_ == 0) return;
  parallel_for(threads, blocks_, 1 + kGrain / block_elements, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      int64_t rest = block;
      int64_t from_at = 0;
      int64_t to_at = 0;
      for (size_t d = outer_.size(); d-- > 0;) {
        const int64_t index = rest % outer_[d].count;
        rest /= outer_[d].count;
        from_at += index * outer_[d].from_step;
        to_at += index * outer_[d].to_step;
      }
      run_block(from + from_at, to + to_at);
    }
  });
}

template <class Word>
void StridedCopy::run_block(const Word* from, Word* to) const {
  const Dim& inner = block_[0];
  if (block_.size() == 1) return copy_row(from, to, inner);
  const Dim& along = block_[1];
  for (int64_t a = 0; a < along.count; a += kTile) {
    const int64_t a_end = std::min(a + kTile, along.count);
    for (int64_t i = 0; i < inner.count; i += kTile) {
      const int64_t i_end = std::min(i + kTile, inner.count);
      for (int64_t x = a; x < a_end; ++x) {
        for (int64_t y = i; y < i_end; ++y) {
          to[x * along.to_step + y * inner.to_step] = from[x * along.from_step + y * inner.from_step];
        }
      }
    }
  }
}

}  // namespace mpc::cpu
