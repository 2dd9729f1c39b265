#include <functional>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "compiler/base/file.h"
#include "compiler/base/json.h"
#include "tests/support/command.h"
#include "tests/unit/helpers.h"

// Files that people edit, edited badly: plans and clusters. The checker's own tests go deeper; here it is the program
// that must refuse them, whatever the command.

namespace mpc::test {
namespace {

using nlohmann::json;

class PlanFile {
 public:
  PlanFile() {
    REQUIRE(run_mpc({"zoo", "two-linear", "-o", folder_ / "m.onnx", "--quiet"}).exit_code == 0);
    REQUIRE(run_mpc({"partition", folder_ / "m.onnx", "--devices", "cpu:2", "--microbatches", "2", "-o",
                     folder_ / "plan.json", "--quiet"})
                .exit_code == 0);
    plan_ = read_json_file(folder_ / "plan.json", ErrorId::M060);
  }

  /// The exit codes of check, simulate and run for a changed plan; they must agree.
  int code_after(const std::function<void(json&)>& change) const {
    json changed = plan_;
    change(changed);
    return code_of(changed.dump());
  }
  int code_of(const std::string& text) const {
    write_file_atomic(folder_ / "changed.json", text);
    const int code = run_mpc({"check", folder_ / "changed.json"}).exit_code;
    CHECK(run_mpc({"simulate", folder_ / "changed.json"}).exit_code == code);
    CHECK(run_mpc({"run", "--plan", folder_ / "changed.json", "--input", "random"}).exit_code == code);
    return code;
  }
  const json& plan() const { return plan_; }
  const TemporaryFolder& folder() const { return folder_; }

 private:
  TemporaryFolder folder_;
  json plan_;
};

}  // namespace

TEST_CASE("plan files: an untouched plan is accepted") {
  const PlanFile file;
  CHECK(file.code_after([](json&) {}) == 0);
}

TEST_CASE("plan files: tables with a row missing, twice or out of place are refused with code 3") {
  const PlanFile file;
  for (const std::string table :
       {"devices", "links", "values", "nodes", "transfers", "slices", "queues", "instructions", "inputs", "outputs"}) {
    CAPTURE(table);
    REQUIRE(file.plan().at(table).size() > 0);
    // The last link is that from the second device to the first, which this plan does not use.
    CHECK(file.code_after([&](json& plan) { plan[table].erase(plan[table].size() - 1); }) ==
          (table == "links" ? 0 : 3));
    CHECK(file.code_after([&](json& plan) { plan[table].push_back(plan[table].back()); }) == 3);
    CHECK(file.code_after([&](json& plan) { plan[table] = 7; }) == 3);
    CHECK(file.code_after([&](json& plan) { plan.erase(table); }) == 3);
  }
}

TEST_CASE("plan files: another version, cut text and text that is no plan are refused with code 3") {
  const PlanFile file;
  CHECK(file.code_after([](json& plan) { plan["version"] = 2; }) == 3);
  CHECK(file.code_after([](json& plan) { plan["version"] = -1; }) == 3);
  const std::string whole = file.plan().dump();
  for (const size_t bytes : {size_t{1}, whole.size() / 2, whole.size() - 1})
    CHECK(file.code_of(whole.substr(0, bytes)) == 3);
  CHECK(file.code_of("{}") == 3);
  CHECK(file.code_of(std::string(100000, '{')) != 0);
}

TEST_CASE("cluster files: devices and links that cannot be are refused with code 3") {
  const TemporaryFolder folder;
  REQUIRE(run_mpc({"zoo", "tiny-linear", "-o", folder / "m.onnx", "--quiet"}).exit_code == 0);
  const json good = json::parse(R"({"devices": [
      {"name": "a", "backend": "cpu", "memory_bytes": 1000000, "flops": {"f32": 1e10}, "memory_bandwidth": 1e10},
      {"name": "b", "backend": "cpu", "memory_bytes": 1000000, "flops": {"f32": 1e10}, "memory_bandwidth": 1e10}],
    "links": [{"from": "a", "to": "b", "bytes_per_second": 1e9, "latency_seconds": 1e-6},
              {"from": "b", "to": "a", "bytes_per_second": 1e9, "latency_seconds": 1e-6}]})");
  const auto code_after = [&](const std::function<void(json&)>& change) {
    json changed = good;
    change(changed);
    write_file_atomic(folder / "cluster.json", changed.dump());
    return run_mpc({"partition", folder / "m.onnx", "--cluster", folder / "cluster.json"}).exit_code;
  };
  CHECK(code_after([](json&) {}) == 0);
  CHECK(code_after([](json& c) { c["devices"] = json::array(); }) == 3);
  CHECK(code_after([](json& c) { c["devices"] = 1000000000; }) == 3);
  CHECK(code_after([](json& c) { c["devices"][0]["memory_bytes"] = 0; }) == 3);
  CHECK(code_after([](json& c) { c["devices"][0]["memory_bytes"] = -1; }) == 3);
  CHECK(code_after([](json& c) { c["devices"][0]["memory_bytes"] = "16 GB "; }) == 3);
  CHECK(code_after([](json& c) { c["devices"][1]["name"] = "a"; }) == 3);
  CHECK(code_after([](json& c) { c["links"].erase(1); }) == 3);
  CHECK(code_after([](json& c) { c["links"][0]["bytes_per_second"] = 0; }) == 3);
  CHECK(code_after([](json& c) { c["links"][0]["to"] = "a"; }) == 3);
  CHECK(code_after([](json& c) { c["links"][0]["to"] = "c"; }) == 3);
  CHECK(code_after([](json& c) { c["links"][0]["latency_seconds"] = -1; }) == 3);
}

}  // namespace mpc::test
