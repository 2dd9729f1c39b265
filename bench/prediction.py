#!/usr/bin/env python3
"""How well mpc predicts the time of a step on a CPU, with and without a profile of the machine.

usage: prediction.py --mpc MPC_PROGRAM -o OUT.json [--rounds N]

Measured is the CPU time of a step on one device with one thread (`cpu_seconds` of `mpc bench --json`, the least of the
rounds): wall time on a shared machine measures its other users. The profile is made once, of mpc's own samples; none of
the models below is measured at the batch that it is predicted for, and the rows marked "unseen" belong to no
family that was sampled. An error is predicted / measured - 1.
"""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

# model, sizes, batch, training, is its family among the samples of `mpc profile`; and micro-batches, where not one
ROWS = [("resnet50", [], 4, False, True), ("resnet50", [], 16, False, True), ("bert-base", [], 4, False, True),
        ("gpt2", [], 4, False, True), ("mlp", [], 256, False, True), ("mlp", [], 256, True, True),
        ("resnet50", [], 2, True, True), ("bert-base", ["layers=4"], 2, True, True),
        ("vit-b", ["layers=4"], 2, False, False), ("moe", [], 4, False, False),
        ("resnet18", ["image=64", "width=32"], 32, True, True, 16),
        ("gpt2", ["layers=6", "hidden=256", "heads=4", "vocab=256", "sequence=64"], 32, True, True, 16)]


def answer(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: {result.stderr[-1000:]}")
    return json.loads(result.stdout)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mpc", required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    mpc = os.path.abspath(arguments.mpc)
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        profile = folder / "profile.json"
        measured_profile = answer([mpc, "profile", "--devices", "cpu:1", "-o", str(profile), "--json", "-"])
        for model, sizes, batch, training, is_sampled, *microbatches in ROWS:
            path = folder / "m.onnx"
            command = [mpc, "zoo", model, "-o", str(path), "--quiet"]
            for size in sizes:
                command += ["--size", size]
            subprocess.run(command, check=True)
            request = [str(path), "--devices", "cpu:1", "--batch", str(batch)] + (["--train"] if training else [])
            for count in microbatches:
                request += ["--microbatches", str(count)]
            plain = answer([mpc, "partition", *request, "--json", "-"])["step_seconds"]
            # The system's account of CPU time has ticks of some milliseconds: a round takes a second.
            steps = max(3, min(1000, int(1 / plain)))
            bench = [mpc, "bench", *request, "--warmup", "1", "--repetitions", str(steps), "--json", "-", "--profile", str(profile)]
            rounds = [answer(bench) for _ in range(arguments.rounds)]
            measured = min(r["cpu_seconds"] for r in rounds)
            profiled = rounds[0]["predicted"]["step_seconds"]
            row = {"model": model, "sizes": sizes, "batch": batch, "training": training, "family_sampled": is_sampled,
                   "microbatches": (microbatches or [1])[0], "measured_cpu_seconds": measured, "predicted_seconds": profiled, "predicted_seconds_without_profile": plain,
                   "error": profiled / measured - 1, "error_without_profile": plain / measured - 1,
                   "peak_bytes_error": rounds[0]["error"]["peak_bytes"]}
            results.append(row)
            print(f"{model:10} batch {batch:4} {'training' if training else 'inference':10} measured {measured:9.4f} s, "
                  f"error {100 * row['error']:+7.1f} %, without a profile {100 * row['error_without_profile']:+7.1f} %", flush=True)
            path.unlink()
    rates = measured_profile["devices"][0]
    output = {"machine": {"processor": processor(), "cores": os.cpu_count(), "load": os.getloadavg()},
              "mpc": subprocess.run([mpc, "--version"], capture_output=True, text=True, check=True).stdout.strip(),
              "command": "bench/prediction.py --mpc build/release/bin/mpc -o " + arguments.output,
              "profile": {key: rates[key] for key in ("flops", "memory_bandwidth", "launch_seconds")}, "results": results}
    pathlib.Path(arguments.output).write_text(json.dumps(output, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
