#include <algorithm>
#include <filesystem>
#include <set>

#include <fmt/format.h>

#include "compiler/base/file.h"
#include "mpc/mpc.h"
#include "tests/e2e/cli.h"

// What a person looks at: profiles, predictions beside measurements, the HTML page, explanations, edited plans.

using namespace mpc::test;
using nlohmann::json;

namespace {

constexpr int64_t kMostBytes = int64_t{1} << 26;

/// The data in a report.
json data_of(const std::string& page) {
  const std::string begin = "<script type=\"application/json\" id=\"data\">";
  const size_t start = page.find(begin);
  REQUIRE(start != std::string::npos);
  const size_t from = start + begin.size();
  return json::parse(page.substr(from, page.find("</script>", from) - from));
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("profile: what is measured of a model predicts it better than the table of hardware") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  const std::string profile = folder / "profile.json";
  const json measured = answer_of({"profile", "-o", profile, "--model", model, "--only-models", "--train"});
  REQUIRE(measured["devices"].size() == 1);
  CHECK(measured["devices"][0]["backend"] == "cpu");
  CHECK(measured["links"][0]["bytes_per_second"].get<double>() > 1e6);
  bool has_gemm = false;
  for (const json& row : measured["devices"][0]["ops"])
    has_gemm = has_gemm || (row["op"] == "Gemm" && row["training"] == true);
  CHECK(has_gemm);
  // Weights are updated by the optimizer that is named.
  const json momentum = answer_of(
      {"profile", "-o", folder / "m.json", "--model", model, "--only-models", "--train", "--optimizer", "momentum"});
  std::set<std::string> updates;
  for (const json& row : momentum["devices"][0]["ops"]) {
    const auto op = row["op"].get<std::string>();
    if (op.ends_with("Update")) updates.insert(op);
  }
  CHECK(updates == std::set<std::string>{"MomentumUpdate"});
  // The plan's prediction is made of the samples: it differs from that of the table, and says the same every time.
  const json table = answer_of({"partition", model, "--devices", "cpu:2"});
  const json first = answer_of({"partition", model, "--devices", "cpu:2", "--profile", profile});
  const json second = answer_of({"partition", model, "--devices", "cpu:2", "--profile", profile});
  CHECK(first["step_seconds"] != table["step_seconds"]);
  CHECK(first["step_seconds"] == second["step_seconds"]);
  const json ran = answer_of({"bench", model, "--profile", profile, "--repetitions", "3", "--warmup", "1"});
  CHECK(ran["predicted"]["step_seconds"].get<double>() > 0);
}

TEST_CASE("profile: every kind of node of training steps can be timed") {
  const TemporaryFolder folder;
  const std::string lstm = zoo_model(folder, "encoder-decoder");
  const std::string images =
      zoo_model(folder, "unet", {"--size", "image=16", "--size", "levels=1", "--size", "width=4"});
  const std::string words = zoo_model(
      folder, "llama",
      {"--size", "layers=1", "--size", "hidden=32", "--size", "vocab=50", "--size", "sequence=8", "--size", "ffn=16"});
  const json measured = answer_of({"profile", "-o", folder / "p.json", "--model", lstm, "--model", images, "--model",
                                   words, "--only-models", "--train", "--batch", "2"});
  std::set<std::string> timed;
  for (const json& row : measured["devices"][0]["ops"]) {
    timed.insert(row["op"].get<std::string>());
    for (const json& sample : row["samples"]) CHECK(sample[2].get<double>() > 0);
  }
  // Of each model: integers that must be rows of a table, or the number of an update, and what is updated in place.
  for (const char* op : {"Gather", "GatherGrad", "LSTMWeightGrad", "SoftmaxCrossEntropyLossGrad", "AdamUpdate",
                         "GradAccumulate", "ConvWeightGrad", "RMSNormalizationGrad"}) {
    CAPTURE(op);
    CHECK(timed.contains(op));
  }
}

TEST_CASE("profile: devices that cannot be measured are refused by name") {
  const TemporaryFolder folder;
  const CommandResult result = run_mpc({"profile", "-o", folder / "p.json", "--devices", "cpu,cuda:0"});
  CHECK((result.exit_code == 8 || result.exit_code == 4));  // no GPU here, or one of another kind than the first device
  CHECK(result.err.find("cuda:0") != std::string::npos);
  CHECK(!std::filesystem::exists(folder / "p.json"));
}

TEST_CASE("run, train and bench: predictions stand beside measurements, per operator too") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"run", model, "--input", "random", "--devices", "cpu:2"},
        std::vector<std::string>{"train", model, "--data", "synthetic", "--steps", "2", "--devices", "cpu:2"},
        std::vector<std::string>{"bench", model, "--repetitions", "2", "--warmup", "0", "--devices", "cpu:2"}}) {
    CAPTURE(command.front());
    const json answer = answer_of(command);
    const double predicted = answer["predicted"]["step_seconds"];
    const double measured = answer["measured"]["step_seconds"];
    CHECK(answer["error"]["step_seconds"].get<double>() == doctest::Approx(predicted / measured - 1));
    REQUIRE(answer["error"]["peak_bytes"].size() == 2);
    for (size_t d = 0; d < 2; ++d) {
      CHECK(answer["error"]["peak_bytes"][d] ==
            answer["predicted"]["peak_bytes"][d].get<int64_t>() - answer["measured"]["peak_bytes"][d].get<int64_t>());
    }
    REQUIRE(!answer["kernels"].empty());
    for (const json& kernel : answer["kernels"]) {
      CHECK_FALSE(kernel["node"].get<std::string>().empty());
      CHECK_FALSE(kernel["kernel"].get<std::string>().empty());
    }
    REQUIRE(!answer["ops"].empty());
    double all = 0;
    for (const json& op : answer["ops"]) all += op["predicted_seconds"].get<double>();
    CHECK(all > 0);
    CHECK(all <= 2 * predicted * 1.0001);  // two devices that work all the time, at most
  }
}

TEST_CASE("report: one page that loads nothing, whose numbers are those of the plan") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "resnet18", {"--no-weights"});
  const std::string path = folder / "report.html";
  const json plan = answer_of(
      {"partition", model, "--devices", "cpu:2", "--train", "--batch", "4", "--microbatches", "2", "--report", path});
  const std::string page = mpc::read_text_file(path, kMostBytes);
  CHECK(page.starts_with("<!DOCTYPE html>"));
  CHECK(page.find("http://") == page.find("http://www.w3.org/2000/svg"));  // the name of a namespace: nothing is loaded
  CHECK(count_of(page, "https://") == 0);
  CHECK(page.find("default-src 'none'") != std::string::npos);
  const json data = data_of(page);
  CHECK(data["step_seconds"] == plan["step_seconds"]);
  CHECK(data["transfers"].size() == plan["transfers"].size());
  CHECK(data["devices"][1]["peak_bytes"] == plan["devices"][1]["peak_bytes"]);
  int64_t leaves = 0;
  for (const json& block : data["tree"]) leaves += block[3].get<int>() >= 0 ? 1 : 0;
  CHECK(leaves == static_cast<int64_t>(data["nodes"].size()));
  // What the tensors at the fullest moment hold is what the curve says there.
  for (const json& memory : data["memory"]) {
    int64_t bytes = memory["other_bytes"];
    for (const json& tensor : memory["tensors"]) bytes += tensor[2].get<int64_t>();
    CHECK(bytes == memory["peak_bytes"]);
  }
  // Bars of one device do not overlap, and end with the step.
  double last = 0;
  for (const json& bar : data["bars"]) last = std::max(last, bar[3].get<double>());
  CHECK(last == doctest::Approx(plan["step_seconds"].get<double>()).epsilon(1e-9));
}

TEST_CASE("report: the measured step lies under the predicted one") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  REQUIRE(run_mpc({"run", model, "--devices", "cpu:2", "--input", "random", "--report", folder / "r.html"}).exit_code ==
          0);
  const json data = data_of(mpc::read_text_file(folder / "r.html", kMostBytes));
  CHECK(data["measured_seconds"].get<double>() > 0);
  bool has_measured = false;
  for (const json& bar : data["bars"]) has_measured = has_measured || bar[1] == 1;
  CHECK(has_measured);
}

TEST_CASE("report: names from the model are data, whatever they say") {
  const TemporaryFolder folder;
  const std::string hostile = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>&\\u003c";
  mpc::write_file_atomic(folder / "plain.json", "");
  const std::string model = zoo_model(folder, "mlp");
  const std::string plan_path = folder / "plan.json";
  REQUIRE(run_mpc({"partition", model, "--devices", "cpu:2", "-o", plan_path, "--quiet"}).exit_code == 0);
  json plan = json::parse(mpc::read_text_file(plan_path, kMostBytes));
  plan["nodes"][0]["name"] = hostile;
  plan["values"][plan["nodes"][0]["outputs"][0].get<size_t>()]["name"] = hostile;
  plan["model"]["path"] = hostile;
  mpc::write_file_atomic(plan_path, plan.dump());
  REQUIRE(run_mpc({"simulate", plan_path, "--report", folder / "r.html", "--quiet"}).exit_code == 0);
  const std::string page = mpc::read_text_file(folder / "r.html", kMostBytes);
  CHECK(count_of(page, "<script") == 2);  // the data and the page's own
  CHECK(count_of(page, "</script") == 2);
  CHECK(page.find("<img") == std::string::npos);
  CHECK(page.find("owned") != std::string::npos);  // it is there, as text
  CHECK(data_of(page)["nodes"][0][0] == hostile);
}

TEST_CASE("explain: every cut has its bytes and the best other boundaries, made by the same compiler") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "residual-cut");
  const json answer = answer_of({"partition", model, "--devices", "cpu:2", "--microbatches", "4", "--explain"});
  const json& explanation = answer["explanation"];
  REQUIRE(explanation["cuts"].size() == 1);
  const json& cut = explanation["cuts"][0];
  int64_t bytes = 0;
  for (const json& transfer : answer["transfers"]) bytes += transfer["bytes"].get<int64_t>();
  CHECK(cut["forward_bytes"].get<int64_t>() + cut["backward_bytes"].get<int64_t>() == bytes);
  REQUIRE(!cut["alternatives"].empty());
  CHECK(cut["alternatives"].size() <= 3);
  for (size_t i = 1; i < cut["alternatives"].size(); ++i) {
    CHECK(cut["alternatives"][i - 1]["step_seconds"] <= cut["alternatives"][i]["step_seconds"]);
  }
  // An alternative is what the compiler makes of that request.
  REQUIRE(!explanation["others"].empty());
  for (const json& other : explanation["others"]) {
    const std::string change = other["change"];
    CAPTURE(change);
    std::vector<std::string> request = {"partition", model, "--microbatches", "4", "--devices", "cpu:2"};
    if (change == "only cpu:0") request.back() = "cpu:1";
    if (change.starts_with("schedule ")) request.insert(request.end(), {"--schedule", change.substr(9)});
    CHECK(other["step_seconds"] == answer_of(request)["step_seconds"]);
  }
}

TEST_CASE("explain: with mixed precision, where a plan has joined casts and weights that other boundaries take apart") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(
      folder, "bert-base",
      {"--size", "layers=2", "--size", "hidden=32", "--size", "heads=2", "--size", "vocab=50", "--size", "sequence=8"});
  for (const char* precision : {"bf16", "f16"}) {
    CAPTURE(precision);
    const json answer = answer_of({"partition", model, "--devices", "cpu:2", "--batch", "4", "--microbatches", "2",
                                   "--train", "--loss", "mse", "--precision", precision, "--explain"});
    REQUIRE(!answer["explanation"]["cuts"].empty());
    CHECK(!answer["explanation"]["cuts"][0]["alternatives"].empty());
  }
}

TEST_CASE("explain, assignment: nodes whose work is done when weights are loaded are where their readers are") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(
      folder, "gpt2",
      {"--size", "layers=2", "--size", "hidden=32", "--size", "heads=2", "--size", "vocab=50", "--size", "sequence=8"});
  const std::string plan = folder / "plan.json";
  const std::vector<std::string> request = {"partition", model,         "--gpus", "2",       "--gpu-type",
                                            "h200",      "--precision", "bf16",   "--batch", "4",
                                            "--explain", "-o",          plan};
  const json answer = answer_of(request);
  REQUIRE(!answer["explanation"]["cuts"].empty());
  CHECK(!answer["explanation"]["cuts"][0]["alternatives"].empty());
  CHECK(mpc::read_text_file(plan, kMostBytes).find("\"op\":\"Transpose\"") == std::string::npos);
  // The table is one parameter of the model, on a device that reads it in two forms.
  const json alone = answer_of({"partition", model, "--gpus", "1", "--gpu-type", "h200", "--precision", "bf16"});
  const json plain = answer_of({"partition", model, "--gpus", "1", "--gpu-type", "h200"});
  CHECK(alone["devices"][0]["parameters"] == plain["devices"][0]["parameters"]);
  REQUIRE(answer["assignment"].contains("head/Transpose"));
  CHECK(answer["assignment"]["head/Transpose"] == answer["assignment"]["head/MatMul"]);
}

TEST_CASE("partition --plan: changed devices are kept and the rest is planned around them") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "residual-cut");
  const std::string path = folder / "plan.json";
  const std::vector<std::string> request = {"partition", model, "--devices", "cpu:2"};
  const json before = answer_of({"partition", model, "--devices", "cpu:2", "-o", path});
  json plan = json::parse(mpc::read_text_file(path, kMostBytes));
  json& node = plan["nodes"][0];
  const std::string name = node["name"];
  const int moved = 1 - node["device"].get<int>();
  node["device"] = moved;
  mpc::write_file_atomic(folder / "edited.json", plan.dump());
  CHECK(run_mpc({"check", folder / "edited.json"}).exit_code != 0);  // by itself it is no plan any more
  const std::string replanned = folder / "replanned.json";
  const json after =
      answer_of({"partition", model, "--devices", "cpu:2", "--plan", folder / "edited.json", "-o", replanned});
  CHECK(before["assignment"] != after["assignment"]);
  CHECK(run_mpc({"check", replanned}).exit_code == 0);
  const json result = json::parse(mpc::read_text_file(replanned, kMostBytes));
  bool is_kept = false;
  for (const json& row : result["nodes"]) is_kept = is_kept || (row["name"] == name && row["device"] == moved);
  CHECK(is_kept);
  // Of another model, or for another number of devices, it is refused.
  CHECK(run_mpc({"partition", zoo_model(folder, "mlp"), "--devices", "cpu:2", "--plan", folder / "edited.json"})
            .exit_code == 3);
  CHECK(run_mpc({"partition", model, "--devices", "cpu:3", "--plan", folder / "edited.json"}).exit_code == 3);
  const CommandResult same = run_mpc({"partition", model, "--devices", "cpu:2", "--plan", path});
  CHECK(same.exit_code == 0);
  CHECK(same.err.find("no changed") != std::string::npos);
}
