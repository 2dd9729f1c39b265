#pragma once

#include <string_view>
#include <utility>

#include "compiler/ir/verify.h"
#include "compiler/ops/verify_types.h"
#include "passes/pipeline.h"

namespace mpc {

/// Tells whoever asked how far the compiler is, and shows and verifies the graphs that its passes make.
class Observed {
 public:
  explicit Observed(const PipelineHooks& hooks) : hooks_(hooks) {}
  void stage(std::string_view name, double share) const {
    if (hooks_.progress) hooks_.progress(name, share);
  }
  /// Verifies what a pass made, and shows it to whoever asked for it.
  Graph after(std::string_view pass, Graph graph) const {
    if (hooks_.verifies) {
      verify(graph);
      verify_types(graph);
    }
    if (hooks_.graph) hooks_.graph(pass, graph);
    return graph;
  }

 private:
  const PipelineHooks& hooks_;
};

}  // namespace mpc
