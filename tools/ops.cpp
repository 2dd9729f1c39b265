#include <memory>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/table.h"
#include "compiler/base/op_kind.h"
#include "compiler/ops/op_def.h"
#include "executor/cpu/cpu_kernels.h"
#include "mpc/cluster.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/console.h"

namespace mpc::tools {
namespace {

std::string_view backward_text(OpKind op) {
  switch (op_def(op).differentiable) {
    case Differentiable::yes:
      return "yes";
    case Differentiable::constant:
      return "zero";
    case Differentiable::no:
      return "no";
  }
  return "no";
}

int list_ops(bool as_markdown, const Console& console) {
  api::Table table({"op", "forward", "backward", "reference", "cpu", "cuda"}, {1, 2, 3, 4, 5});
  std::string markdown = "| op | forward | backward | reference | cpu | cuda |\n|---|---|---|---|---|---|\n";
  Json ops = Json::array();
  for (int i = 0; i < kOpCount; ++i) {
    const OpKind op = static_cast<OpKind>(i);
    const std::string name(op_name(op));
    const std::string backward(backward_text(op));
    const bool has_fast = cpu::has_fast_kernel(op);
    const std::string cpu = has_fast ? "fast" : "reference";
    const bool has_cuda = has_cuda_kernel(name);
    const std::string cuda = has_cuda ? "yes" : "no";
    table.add({name, "yes", backward, "yes", cpu, cuda});
    markdown += fmt::format("| {} | yes | {} | yes | {} | {} |\n", name, backward, cpu, cuda);
    ops.push_back({{"op", name},
                   {"forward", true},
                   {"backward", backward},
                   {"reference", true},
                   {"cpu", cpu},
                   {"cuda", has_cuda}});
  }
  console.say(as_markdown ? markdown : table.text());
  console.json({{"ops", ops}});
  return 0;
}

}  // namespace

Body add_ops(CommandLine& line) {
  auto as_markdown = std::make_shared<bool>(false);
  line.flag("--markdown", *as_markdown, "print a Markdown table");
  return [as_markdown](Console& console) { return list_ops(*as_markdown, console); };
}

}  // namespace mpc::tools
