#include <memory>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/table.h"
#include "compiler/base/file.h"
#include "compiler/base/text.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/console.h"
#include "tools/options.h"

namespace mpc::tools {
namespace {

struct Flags {
  std::string plan;
  std::string trace;
  std::string report;
};

int simulate(const Flags& flags, const Console& console) {
  require_other_file(flags.trace, flags.plan);
  require_other_file(flags.report, flags.plan);
  require_other_file(console.json_path, flags.plan);
  const Plan plan = Plan::load(flags.plan);
  const Simulation simulation = plan.simulate();
  if (!flags.trace.empty()) write_file_atomic(flags.trace, plan.trace_json());
  if (!flags.report.empty()) write_file_atomic(flags.report, plan.report_html());
  api::Table table({"device", "busy", "idle", "most live", "arena"});
  Json devices = Json::array();
  for (const DevicePlan& device : plan.devices()) {
    const size_t d = static_cast<size_t>(device.id);
    const double idle = simulation.step_seconds > 0 ? 1 - simulation.busy_seconds[d] / simulation.step_seconds : 0;
    table.add({device.name, seconds_text(simulation.busy_seconds[d]), fmt::format("{:.1f} %", 100 * idle),
               bytes_text(simulation.peak_live_bytes[d]), bytes_text(device.peak_bytes)});
    devices.push_back({{"id", device.id},
                       {"name", device.name},
                       {"busy_seconds", simulation.busy_seconds[d]},
                       {"peak_live_bytes", simulation.peak_live_bytes[d]},
                       {"peak_bytes", device.peak_bytes}});
  }
  console.say(table.text() + fmt::format("step {}, bubble {:.1f} %, schedule {}, {} micro-batches\n",
                                         seconds_text(simulation.step_seconds), 100 * simulation.bubble,
                                         plan.schedule(), plan.microbatches()));
  console.json({{"step_seconds", simulation.step_seconds}, {"bubble", simulation.bubble}, {"devices", devices}});
  return 0;
}

}  // namespace

Body add_simulate(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("plan", flags->plan, "the plan").required().type("PLAN");
  line.option("--trace", flags->trace, "write the timeline as a trace for Perfetto").type("FILE");
  line.option("--report", flags->report, "write the plan as an HTML page").type("FILE.html");
  return [flags](Console& console) { return simulate(*flags, console); };
}

}  // namespace mpc::tools
