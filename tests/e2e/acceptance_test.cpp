#include <cstdint>

#include "tests/e2e/cli.h"

// Rows of the acceptance table, as the program reports them. Bytes are exact.

using namespace mpc::test;
using nlohmann::json;

namespace {

/// Bytes of the transfers of one phase.
std::vector<int64_t> transfer_bytes(const json& report, const std::string& phase) {
  std::vector<int64_t> bytes;
  for (const json& transfer : report["transfers"]) {
    if (transfer["phase"] == phase) bytes.push_back(transfer["bytes"]);
  }
  return bytes;
}

}  // namespace

TEST_CASE("acceptance S-A: two-linear on two devices sends 128,000 bytes once") {
  const TemporaryFolder folder;
  const json report = answer_of(
      {"partition", zoo_model(folder, "two-linear"), "--devices", "cpu:2", "--pin", "layer1/=0", "--pin", "layer2/=1"});
  CHECK(report["feasible"] == true);
  REQUIRE(report["transfers"].size() == 1);
  const json& transfer = report["transfers"][0];
  CHECK(transfer["bytes"] == 128000);
  CHECK(transfer["from"] == 0);
  CHECK(transfer["to"] == 1);
  CHECK(transfer["phase"] == "forward");
  CHECK(report["devices"][0]["parameter_bytes"] == 2002000);
  CHECK(report["devices"][1]["parameter_bytes"] == 200400);
  CHECK(report["assignment"]["layer1/Gemm"] == 0);
  CHECK(report["assignment"]["layer2/Gemm"] == 1);
}

TEST_CASE("acceptance S-A: the report prints the imbalance of the FLOPs") {
  const TemporaryFolder folder;
  const CommandResult result = run_mpc({"partition", zoo_model(folder, "two-linear"), "--devices", "cpu:2"});
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("90.9 %") != std::string::npos);
  CHECK(result.out.find("9.1 %") != std::string::npos);
}

TEST_CASE("acceptance S-B: one device under the cap is refused with needs and suggestions, two fit by themselves") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "two-linear");
  const CommandResult refused =
      run_mpc({"partition", model, "--devices", "cpu:1", "--memory", "2.40MiB", "--json", "-"});
  CHECK(refused.exit_code == 5);
  const json reasons = json::parse(refused.out);
  CHECK(reasons["feasible"] == false);
  REQUIRE(reasons["needs"].size() == 1);
  // Parameters, x and the hidden values: y may lie where x was.
  CHECK(reasons["needs"][0]["bytes"].get<int64_t>() >= 2202400 + 256000 + 128000);
  CHECK(reasons["needs"][0]["capacity_bytes"] == 2516582);
  CHECK(reasons["suggestions"].size() > 0);
  CHECK(refused.err.find("error[M050]") != std::string::npos);

  const json report = answer_of({"partition", model, "--devices", "cpu:2", "--memory", "2.40MiB"});
  CHECK(transfer_bytes(report, "forward") == std::vector<int64_t>{128000});
  CHECK(report["assignment"]["layer1/Gemm"] != report["assignment"]["layer2/Gemm"]);
}

TEST_CASE(
    "acceptance S-D: seqnet trains with one transfer of 80,000 bytes each way and Adam's state beside the parameters") {
  const TemporaryFolder folder;
  const json report =
      answer_of({"partition", zoo_model(folder, "seqnet"), "--devices", "cpu:2", "--train", "--optimizer",
                 "adam,lr=0.01", "--pin", "lin1/=0", "--pin", "lin2/=1", "--pin", "loss/=1"});
  CHECK(transfer_bytes(report, "forward") == std::vector<int64_t>{80000});
  CHECK(transfer_bytes(report, "backward") == std::vector<int64_t>{80000});
  CHECK(report["devices"][0]["optimizer_bytes"] == 1256000);
  CHECK(report["devices"][1]["optimizer_bytes"] == 16080);
}

TEST_CASE("acceptance S-H: the broken classifier is refused with the node and both numbers") {
  const TemporaryFolder folder;
  const CommandResult result = run_mpc({"partition", zoo_model(folder, "cnn-classifier-broken"), "--devices", "cpu:2"});
  CHECK(result.exit_code == 3);
  CHECK(result.err.find("classifier/") != std::string::npos);
  CHECK(result.err.find("16384") != std::string::npos);
  CHECK(result.err.find("4096") != std::string::npos);
  CHECK(result.err.find("B with 16384 rows; an input \"x\" of 32x32 instead of 64x64 fits\n") != std::string::npos);
}

TEST_CASE("acceptance S-I: the pinned classifier receives the pooled features") {
  const TemporaryFolder folder;
  const auto forward = [&](const std::string& model) {
    return transfer_bytes(answer_of({"partition", zoo_model(folder, model), "--devices", "cpu:2", "--pin",
                                     "features/=0", "--pin", "classifier/=1"}),
                          "forward");
  };
  CHECK(forward("cnn-classifier") == std::vector<int64_t>{4194304});
  CHECK(forward("cnn-classifier-32") == std::vector<int64_t>{1048576});
}

TEST_CASE("acceptance S-J: encoder, decoder and classifier on three devices exchange the sequences") {
  const TemporaryFolder folder;
  const json report = answer_of({"partition", zoo_model(folder, "encoder-decoder"), "--devices", "cpu:3", "--train",
                                 "--optimizer", "adam,lr=0.001", "--pin", "encoder/=0", "--pin", "decoder/=1", "--pin",
                                 "classifier/=2", "--pin", "loss/=2"});
  CHECK(transfer_bytes(report, "forward") == std::vector<int64_t>{163840, 81920});
  CHECK(transfer_bytes(report, "backward") == std::vector<int64_t>{81920, 163840});
  CHECK(report["devices"][0]["optimizer_bytes"] == 226304);
  CHECK(report["devices"][1]["optimizer_bytes"] == 282880);
  CHECK(report["devices"][2]["optimizer_bytes"] == 2640);
}

TEST_CASE("acceptance S-O: the branches run on devices of their own and meet at the join") {
  const TemporaryFolder folder;
  const json report = answer_of({"partition", zoo_model(folder, "branches"), "--devices", "cpu:3", "--pin",
                                 "branch_a/=0", "--pin", "branch_b/=1", "--pin", "join/=2"});
  CHECK(transfer_bytes(report, "forward") == std::vector<int64_t>{65536, 65536});
  for (const json& transfer : report["transfers"]) CHECK(transfer["to"] == 2);
}
