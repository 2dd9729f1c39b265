#include <filesystem>

#include "compiler/base/file.h"
#include "tests/e2e/cli.h"

using namespace mpc::test;
using nlohmann::json;

TEST_CASE("partition: a plan that was written passes the check, simulates and runs") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  const std::string plan = folder / "plan.json";
  CHECK(run_mpc({"partition", model, "--devices", "cpu:2", "-o", plan, "--quiet"}).exit_code == 0);
  const json checked = answer_of({"check", plan});
  CHECK(checked["kind"] == "plan");
  CHECK(checked["ok"] == true);
  const json simulated = answer_of({"simulate", plan});
  const json report = answer_of({"partition", model, "--devices", "cpu:2"});
  CHECK(simulated["step_seconds"] == report["step_seconds"]);
  // What the simulator sees alive never exceeds the arena that the plan asks for.
  for (const json& device : simulated["devices"]) CHECK(device["peak_live_bytes"] <= device["peak_bytes"]);
  for (const json& device : report["devices"]) {
    CHECK(device["live_bytes"] <= device["peak_bytes"]);
    CHECK(device["peak_over_live"].get<double>() ==
          device["peak_bytes"].get<double>() / device["live_bytes"].get<double>());
    CHECK(device["peak_over_live"].get<double>() <= 1.02);  // what tests/zoo/memory_test.cpp holds for every model
  }
  const json ran = answer_of({"run", "--plan", plan, "--input", "random"});
  for (size_t d = 0; d < 2; ++d) CHECK(ran["measured"]["peak_bytes"][d] <= ran["predicted"]["peak_bytes"][d]);
}

TEST_CASE("partition: the same request writes the same plan byte for byte") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "residual-cut");
  const auto plan_text = [&](const std::string& name) {
    CHECK(run_mpc({"partition", model, "--devices", "cpu:3", "--microbatches", "4", "-o", folder / name, "--quiet"})
              .exit_code == 0);
    return mpc::test::run_program("/bin/cat", {folder / name}).out;
  };
  const std::string first = plan_text("a.json");
  CHECK(first.size() > 1000);
  CHECK(first == plan_text("b.json"));
}

TEST_CASE("partition: a model that carries annotations keeps its placement") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  const std::string annotated = folder / "annotated.onnx";
  const json first = answer_of({"partition", model, "--devices", "cpu:3", "--onnx", annotated});
  const json second = answer_of({"partition", annotated, "--devices", "cpu:3"});
  CHECK(second["assignment"] == first["assignment"]);
  // A search for latency puts everything on one device, annotations or not being the difference.
  const json free =
      answer_of({"partition", annotated, "--devices", "cpu:3", "--ignore-annotations", "--objective", "devices"});
  CHECK(free["assignment"] != first["assignment"]);
}

TEST_CASE("run, train and bench keep the placement that a model carries") {
  const TemporaryFolder folder;
  const std::string annotated = folder / "annotated.onnx";
  answer_of({"partition", zoo_model(folder, "two-linear"), "--devices", "cpu:2", "--pin", "layer1=1", "--pin",
             "layer2=0", "--onnx", annotated});
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"run", annotated, "--input", "random"},
           {"train", annotated, "--data", "synthetic", "--loss", "mse", "--steps", "1"},
           {"train", annotated, "--data", "synthetic", "--loss", "mse", "--steps", "1", "--precision", "bf16"},
           {"bench", annotated, "--repetitions", "1"}}) {
    CAPTURE(command.front());
    std::vector<std::string> kept = command, free = command;
    kept.insert(kept.end(), {"--devices", "cpu:2"});
    free.insert(free.end(), {"--devices", "cpu:2", "--ignore-annotations"});
    CHECK(answer_of(kept)["transfers"][0]["from"] == 1);
    CHECK(answer_of(free)["transfers"][0]["from"] == 0);
    // On one device there is nothing to keep.
    CHECK(answer_of(command)["transfers"].empty());
  }
}

TEST_CASE("partition: with --json - stdout is JSON and nothing else") {
  const TemporaryFolder folder;
  const CommandResult result = run_mpc({"partition", zoo_model(folder, "mlp"), "--devices", "cpu:2", "--json", "-"});
  CHECK(result.exit_code == 0);
  CHECK(json::accept(result.out));
  CHECK(result.err.find("transfers:") != std::string::npos);
}

TEST_CASE("partition: planning for GPUs that are not there says what is assumed") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  const CommandResult assumed = run_mpc({"partition", model, "--gpus", "2"});
  CHECK(assumed.exit_code == 0);
  CHECK(assumed.err.find("h100-80g") != std::string::npos);
  const CommandResult named = run_mpc({"partition", model, "--gpus", "2", "--gpu-type", "a100-40g"});
  CHECK(named.exit_code == 0);
  CHECK(named.err.empty());
}

TEST_CASE("partition: devices come from a cluster file, or are of a kind that a file describes") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  mpc::write_file_atomic(folder / "cluster.json", R"({"devices": [{"name": "a", "kind": "h200"},
      {"name": "b", "backend": "cpu", "memory_bytes": 8589934592, "flops": {"f32": 5e10}, "memory_bandwidth": 1.2e10}],
    "links": [{"from": "a", "to": "b", "bytes_per_second": 5e10, "latency_seconds": 1e-5},
              {"from": "b", "to": "a", "bytes_per_second": 5e10, "latency_seconds": 1e-5}]})");
  const json mixed = answer_of({"partition", model, "--cluster", folder / "cluster.json"});
  CHECK(mixed["devices"][0]["name"] == "a");
  CHECK(mixed["devices"][1]["capacity_bytes"] == 8589934592);
  mpc::write_file_atomic(
      folder / "kind.json",
      R"({"backend": "cuda", "memory_bytes": 1000000000, "flops": {"f32": 1e12}, "memory_bandwidth": 1e11})");
  const json kind = answer_of({"partition", model, "--gpus", "2", "--gpu-type", folder / "kind.json"});
  CHECK(kind["devices"].size() == 2);
  CHECK(kind["devices"][1]["name"] == "cuda:1");
  CHECK(kind["devices"][1]["capacity_bytes"] == 1000000000);
}

TEST_CASE("partition: micro-batches shorten the idle time that is predicted") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  const auto bubble = [&](const std::string& microbatches) {
    return answer_of(
               {"partition", model, "--devices", "cpu:2", "--batch", "256", "--microbatches", microbatches})["bubble"]
        .get<double>();
  };
  CHECK(bubble("8") < bubble("1"));
}

TEST_CASE("partition, --parallel: a model of a trillion parameters is planned over 1,024 GPUs without its weights") {
  const TemporaryFolder folder;
  const std::string model = folder / "large.onnx";
  CHECK(run_mpc({"zoo", "gpt2-xl", "--size", "layers=128", "--size", "hidden=25600", "--size", "heads=160", "--size",
                 "sequence=2048", "--size", "positions=2048", "--no-weights", "-o", model, "--quiet"})
            .exit_code == 0);
  const json answer = answer_of({"partition", model, "--gpus", "1024", "--gpu-type", "h100-80g", "--parallel",
                                 "--train", "--optimizer", "adam", "--batch", "512", "--microbatches", "512"});
  CHECK(answer["feasible"] == true);
  CHECK(answer["parameters"] == 1'008'014'617'600);
  CHECK(answer["objective"]["optimal"] == true);
  int64_t devices = 0;
  int64_t parameters = 0;
  bool is_sharded = false;
  for (const json& stage : answer["stages"]) {
    CHECK(stage["first_device"] == devices);
    devices += stage["d"].get<int64_t>() * stage["t"].get<int64_t>();
    parameters += stage["parameters"].get<int64_t>();
    is_sharded = is_sharded || stage["t"] == 8;
    CHECK(stage["memory_bytes"].get<double>() <= 80.0 * (1 << 30));
    CHECK(stage["seconds"].get<double>() <= answer["objective"]["value"].get<double>());
  }
  CHECK(devices <= 1024);
  CHECK(parameters == 1'008'014'617'600);
  CHECK(is_sharded);  // one layer with its optimizer state is more than a GPU holds
  const CommandResult few = run_mpc({"partition", model, "--gpus", "64", "--gpu-type", "h100-80g", "--parallel",
                                     "--train", "--optimizer", "adam", "--batch", "512", "--microbatches", "512"});
  CHECK(few.exit_code == 5);
  CHECK(run_mpc({"partition", model, "--gpus", "64", "--parallel", "-o", folder / "plan.json"}).exit_code == 4);
}

TEST_CASE("partition, train: activations that do not fit wait in host memory, which is told and changes no number") {
  const TemporaryFolder folder;
  const std::string model =
      zoo_model(folder, "unet", {"--size", "image=32", "--size", "levels=2", "--size", "width=8"});
  const std::vector<std::string> request = {model,     "--devices", "cpu:1",      "--loss", "mse",
                                            "--batch", "4",         "--schedule", "1f1b"};
  const auto with = [&](std::vector<std::string> head, const std::vector<std::string>& more) {
    head.insert(head.end(), request.begin(), request.end());
    head.insert(head.end(), more.begin(), more.end());
    return head;
  };
  const json ample = answer_of(with({"partition"}, {"--train"}));
  REQUIRE(ample["devices"].size() == 1);
  const int64_t peak = ample["devices"][0]["peak_bytes"];
  const std::vector<std::string> tight = {"--memory", std::to_string(peak * 2 / 3), "--recompute", "never"};
  std::vector<std::string> planned = tight;
  planned.insert(planned.end(),
                 {"--train", "--explain", "--report", folder / "report.html", "-o", folder / "plan.json"});
  const json plan = answer_of(with({"partition"}, planned));
  REQUIRE(plan["devices"].size() == 2);
  CHECK(plan["devices"][1]["name"] == "host");
  CHECK(plan["devices"][1]["nodes"] == 0);
  int64_t there = 0;
  int64_t back = 0;
  for (const json& transfer : plan["transfers"]) {
    there += transfer["phase"] == "offload" ? transfer["bytes"].get<int64_t>() : 0;
    back += transfer["phase"] == "fetch" ? transfer["bytes"].get<int64_t>() : 0;
  }
  CHECK(there > 0);
  CHECK(there == back);
  CHECK(plan["explanation"]["cuts"].empty());
  CHECK(plan["explanation"]["host_memory"]["bytes"] == there);
  CHECK(plan["explanation"]["host_memory"]["peak_bytes"] == plan["devices"][1]["peak_bytes"]);
  CHECK(plan["notes"].dump().find("wait in host memory") != std::string::npos);
  CHECK(run_mpc({"check", folder / "plan.json"}).exit_code == 0);
  CHECK(run_mpc({"simulate", folder / "plan.json"}).exit_code == 0);

  const std::vector<std::string> steps = {"--data", "synthetic", "--samples", "8", "--steps", "3"};
  std::vector<std::string> tight_steps = steps;
  tight_steps.insert(tight_steps.end(), tight.begin(), tight.end());
  const json expected = answer_of(with({"train"}, steps));
  const json trained = answer_of(with({"train"}, tight_steps));
  CHECK(trained["loss"] == expected["loss"]);
  REQUIRE(trained["devices"].size() == 2);
  CHECK(trained["measured"]["peak_bytes"] == trained["predicted"]["peak_bytes"]);
}

TEST_CASE("partition: host memory that nothing may or can wait in is refused") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  const auto refusal = [&](std::vector<std::string> flags) {
    std::vector<std::string> arguments = {"partition", model, "--devices", "cpu:1"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const CommandResult result = run_mpc(arguments);
    CHECK(result.exit_code == 2);
    return result.err;
  };
  CHECK(refusal({"--train", "--host-memory", "1GiB", "--offload", "never"}).find("none may") != std::string::npos);
  CHECK(refusal({"--host-memory", "1GiB"}).find("nothing is trained") != std::string::npos);
  CHECK(refusal({"--train", "--host-memory", "much"}).find("is not a size") != std::string::npos);
  CHECK(refusal({"--train", "--parallel", "--offload", "never"}).find("--offload does not go with it") !=
        std::string::npos);
}

TEST_CASE("inspect: parameters, FLOPs and ops are those of the model") {
  const TemporaryFolder folder;
  const json report = answer_of({"inspect", zoo_model(folder, "two-linear")});
  CHECK(report["parameters"] == 550600);
  CHECK(report["parameter_bytes"] == 2202400);
  // 64 * (1000 * 500 + 500 * 100) multiply-adds are two each; the bias is one more multiply-add per output
  CHECK(report["flops"] == 2.0 * 64 * (1000 * 500 + 500 * 100) + 2.0 * 64 * (500 + 100));
  CHECK(report["ops"][0]["op"] == "Gemm");
  CHECK(report["ops"][0]["count"] == 2);
}

TEST_CASE("zoo: every model that is listed can be written and inspected") {
  const TemporaryFolder folder;
  const json list = answer_of({"zoo"});
  CHECK(list["models"].size() >= 20);
  for (const json& entry : list["models"]) {
    const std::string name = entry["name"];
    CAPTURE(name);
    const json report = answer_of({"inspect", zoo_model(folder, name, {"--no-weights"})});
    CHECK(report["complete"] == (name != "cnn-classifier-broken"));
    CHECK(report["unsupported"]["forward"].empty());
    std::filesystem::remove(folder / (name + ".onnx"));
  }
}

TEST_CASE("ops and devices: both answer in JSON") {
  const json ops = answer_of({"ops"});
  CHECK(ops["ops"].size() > 70);
  const json devices = answer_of({"devices"});
  CHECK(devices["devices"][0]["name"] == "cpu");
  CHECK(devices["links"][0]["verified"] == true);
  CHECK(run_mpc({"ops", "--markdown"}).out.find("| Gemm | yes | yes | yes |") != std::string::npos);
}

TEST_CASE("every command explains itself") {
  for (const char* command : {"zoo", "inspect", "partition", "run", "train", "verify", "check", "simulate", "bench",
                              "profile", "opt", "ops", "devices"}) {
    CAPTURE(command);
    const CommandResult result = run_mpc({command, "--help"});
    CHECK(result.exit_code == 0);
    CHECK(result.out.find("--json") != std::string::npos);
    CHECK(result.out.find("Usage: mpc " + std::string(command)) != std::string::npos);
    CHECK(result.err.empty());
  }
  CHECK(run_mpc({"--help"}).out.find("partition") != std::string::npos);
  CHECK(run_mpc({"--version"}).out.starts_with("mpc "));
}

TEST_CASE("partition, --gpus-per-node: one tensor at most goes from one node of machines to the other") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp");
  const auto crossings = [&](const std::vector<std::string>& links) {
    std::vector<std::string> command = {"partition", model, "--gpus", "4", "--gpu-type", "h100-80g"};
    command.insert(command.end(), links.begin(), links.end());
    const json answer = answer_of(command);
    int count = 0;
    for (const json& transfer : answer["transfers"]) count += (transfer["from"] < 2) != (transfer["to"] < 2) ? 1 : 0;
    return count;
  };
  CHECK(crossings({"--gpus-per-node", "2", "--node-bandwidth", "1e8"}) == 1);
  // A cluster file says the same of four devices of which 0 and 2, and 1 and 3, are near each other.
  json file;
  for (int d = 0; d < 4; ++d) file["devices"].push_back({{"name", "gpu" + std::to_string(d)}, {"kind", "h100-80g"}});
  for (int from = 0; from < 4; ++from) {
    for (int to = 0; to < 4; ++to) {
      if (from == to) continue;
      file["links"].push_back({{"from", "gpu" + std::to_string(from)},
                               {"to", "gpu" + std::to_string(to)},
                               {"bytes_per_second", from % 2 == to % 2 ? 3.7e11 : 1e8},
                               {"latency_seconds", from % 2 == to % 2 ? 8e-6 : 20e-6}});
    }
  }
  mpc::write_file_atomic(folder / "cluster.json", file.dump());
  const json answer = answer_of({"partition", model, "--cluster", folder / "cluster.json"});
  int slow = 0;
  for (const json& transfer : answer["transfers"])
    slow += transfer["from"].get<int>() % 2 != transfer["to"].get<int>() % 2 ? 1 : 0;
  CHECK(slow == 1);
}

TEST_CASE("partition, --objective: each has a value that is not below its bound") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "residual-cut");
  json answers;
  for (const std::string name : {"throughput", "latency", "devices", "memory"}) {
    const json answer = answer_of({"partition", model, "--devices", "cpu:3", "--memory", "1GiB", "--objective", name});
    CHECK(answer["objective"]["name"] == name);
    CHECK(answer["objective"]["value"] >= answer["objective"]["lower_bound"]);
    CHECK(answer["objective"]["lower_bound"] > 0);
    answers[name] = answer;
  }
  const auto fullest = [](const json& answer) {
    int64_t bytes = 0;
    for (const json& device : answer["devices"]) bytes = std::max(bytes, device["peak_bytes"].get<int64_t>());
    return bytes;
  };
  CHECK(fullest(answers["memory"]) < fullest(answers["devices"]));
  CHECK(fullest(answers["memory"]) <= fullest(answers["throughput"]));
  CHECK(answers["memory"]["objective"]["value"] <= 1);
}
