#include "executor/host/names.h"

#include <fmt/format.h>

#include "compiler/base/text.h"

namespace mpc::executor {

Error unknown_name(ErrorId id, std::string_view what, const std::string& name, std::span<const std::string> known) {
  const std::optional<std::string> suggestion = nearest(name, known);
  return Error(id, fmt::format("{} \"{}\"", what, name), fmt::format("the plan has no {} of this name", what),
               suggestion ? fmt::format("did you mean \"{}\"?", *suggestion) : std::string{});
}

}  // namespace mpc::executor
