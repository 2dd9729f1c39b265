#!/usr/bin/env python3
"""Compares mpc on the CPU with ONNX Runtime, one thread each, and writes what was measured as JSON.

Forward steps of the sample models are measured in rounds: in every round mpc and ONNX Runtime run one after the other,
so that a change of the machine's load meets both. The figure is CPU time per step (user and system, all threads of the
process), which a busy machine distorts much less than wall time. Training steps, and plans for two CPU devices that
share the cores, are measured against mpc's own plan for one device, by wall time as well: a device that waits for another
does so awake for a while, which is CPU time but not the user's.

Needs Python packages that mpc does not: numpy, onnxruntime.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Before numpy and onnxruntime are loaded: one thread each. mpc reads it through OpenMP.
os.environ["OMP_NUM_THREADS"] = "1"

FORWARD = [("mlp", 64), ("resnet50", 1), ("bert-base", 1)]
TRAINING = [("mlp", 64, "cross-entropy"), ("resnet50", 1, "cross-entropy"), ("bert-base", 1, "mse")]


def model_file(mpc, folder, name, batch):
    path = Path(folder) / f"{name}.onnx"
    if not path.exists():
        subprocess.run([mpc, "zoo", name, "--batch", str(batch), "-o", str(path), "--quiet"], check=True)
    return path


def mpc_step(mpc, model, devices, steps, *flags):
    """CPU and wall seconds per step of one run of `mpc bench`, and the command."""
    command = [mpc, "bench", str(model), "--devices", devices, "--warmup", "2", "--repetitions", str(steps),
               "--json", "-", "--quiet", *flags]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer["cpu_seconds"], answer["median_seconds"], command


def random_inputs(session):
    import numpy

    random = numpy.random.default_rng(0)
    inputs = {}
    for tensor in session.get_inputs():
        if "int64" in tensor.type:
            inputs[tensor.name] = random.integers(0, 2, tensor.shape)
        else:
            inputs[tensor.name] = random.standard_normal(tensor.shape).astype(numpy.float32)
    return inputs


def onnxruntime_session(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def onnxruntime_step(session, inputs, steps):
    """CPU seconds of a step, the mean of `steps`."""
    for _ in range(2):
        session.run(None, inputs)
    begin = time.process_time()
    for _ in range(steps):
        session.run(None, inputs)
    return (time.process_time() - begin) / steps


def compare_forward(mpc, folder, name, batch, rounds, steps):
    model = model_file(mpc, folder, name, batch)
    session = onnxruntime_session(model)
    inputs = random_inputs(session)
    ours, theirs = [], []
    for _ in range(rounds):
        seconds, _, command = mpc_step(mpc, model, "cpu", steps)
        ours.append(seconds)
        theirs.append(onnxruntime_step(session, inputs, steps))
    return {
        "model": name, "batch": batch, "steps_per_round": steps, "command": " ".join(command[1:]).replace(str(model), model.name),
        "mpc_cpu_seconds": ours, "onnxruntime_cpu_seconds": theirs,
        "mpc_median": statistics.median(ours), "onnxruntime_median": statistics.median(theirs),
        "ratio": statistics.median(ours) / statistics.median(theirs),
    }


def compare_devices(mpc, folder, name, batch, rounds, steps, flags):
    """One device against two that share the same cores. The sum of CPU time is the cost of splitting."""
    model = model_file(mpc, folder, name, batch)
    measured = {"cpu": ([], []), "cpu:2": ([], [])}
    for _ in range(rounds):
        for devices, (cpu, wall) in measured.items():
            cpu_seconds, wall_seconds, command = mpc_step(mpc, model, devices, steps, *flags)
            cpu.append(cpu_seconds)
            wall.append(wall_seconds)
    (one, one_wall), (two, two_wall) = measured["cpu"], measured["cpu:2"]
    return {
        "model": name, "batch": batch, "steps_per_round": steps, "command": " ".join(command[1:]).replace(str(model), model.name),
        "one_device_cpu_seconds": one, "two_devices_cpu_seconds": two,
        "one_device_wall_seconds": one_wall, "two_devices_wall_seconds": two_wall,
        "one_device_median": statistics.median(one), "two_devices_median": statistics.median(two),
        "ratio": statistics.median(two) / statistics.median(one),
        "wall_ratio": statistics.median(two_wall) / statistics.median(one_wall),
    }


def print_devices(name, row):
    print(f"{name}: two devices {row['two_devices_median'] * 1e3:.3f} ms of CPU time, ratio to one {row['ratio']:.3f}; "
          f"wall time {row['wall_ratio']:.3f}", flush=True)


def machine():
    import onnxruntime

    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
    return {
        "cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(terse=True),
        "load_average": os.getloadavg()[0], "onnxruntime": onnxruntime.__version__,
    }


def write(result, path):
    """Called after every model, so that an interrupted run leaves what it has measured."""
    result["machine"]["load_average_at_end"] = os.getloadavg()[0]
    output = Path(path)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mpc", default="build/release/bin/mpc", help="the program to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps per round (mlp: 50 times as many)")
    parser.add_argument("-o", "--output", required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    mpc = str(Path(arguments.mpc).resolve())
    version = subprocess.run([mpc, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    result = {
        "date": datetime.date.today().isoformat(), "mpc": version, "machine": machine(),
        "unit": "CPU seconds per step (mean of a round, median of the rounds), one thread per device", "forward": [], "partitioned_forward": [], "training": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, batch in FORWARD:
            steps = arguments.steps * (50 if name == "mlp" else 1)
            row = compare_forward(mpc, folder, name, batch, arguments.rounds, steps)
            result["forward"].append(row)
            print(f"{name}: mpc {row['mpc_median'] * 1e3:.3f} ms, ONNX Runtime {row['onnxruntime_median'] * 1e3:.3f} ms, "
                  f"ratio {row['ratio']:.2f}", flush=True)
            write(result, arguments.output)
            row = compare_devices(mpc, folder, name, batch, arguments.rounds, steps, [])
            result["partitioned_forward"].append(row)
            print_devices(name, row)
            write(result, arguments.output)
        for name, batch, loss in TRAINING:
            steps = arguments.steps * (50 if name == "mlp" else 1)
            flags = ["--train", "--loss", loss, "--optimizer", "sgd"]
            row = compare_devices(mpc, folder, name, batch, arguments.rounds, steps, flags)
            result["training"].append(row)
            print_devices(f"{name} training", row)
            write(result, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
