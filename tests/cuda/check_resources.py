#!/usr/bin/env python3
"""Checks what ptxas reports of the f32 kernels that a training step lives on: no spills, and registers for full occupancy.

usage: check_resources.py SOURCE_DIR WORK_DIR NVCC [LAUNCHER]
"""
import pathlib
import re
import subprocess
import sys

# 64 registers let a multiprocessor of 64 Ki registers hold 1024 threads.
MOST_REGISTERS = 64
# File -> names of bodies, each of which must be found in it.
LISTED = {
    "softmax.cu": ["SoftmaxLine", "SoftmaxGradLine", "CrossEntropyItem", "CrossEntropyGradItem"],
    "fused.cu": ["RunProgram"],
    "training.cu": ["Accumulate", "SgdRule", "MomentumRule", "AdamRule", "DropoutQuad"],
    "layer_norm.cu": ["NormalizeRow", "NormalizeRowGrad", "WeightGradParts"],
    "batch_norm.cu": ["BatchInference", "BatchTraining", "BatchGrad"],
    "reduction.cu": ["ByBlock", "ByThread"],
}


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    source, work, nvcc = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    launcher = sys.argv[4:]
    work.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for name, bodies in LISTED.items():
        words = [*launcher, nvcc, "-std=c++20", "-O3", "--expt-relaxed-constexpr", "--fmad=false", "-arch=sm_90", "-Xptxas=-v",
                 f"-I{source}", f"-I{source / 'include'}", "-c", source / "executor/cuda/kernels" / name, "-o", work / f"{name}.o"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(done.stderr)
        found = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
                           r".*?Used (\d+) registers", done.stderr, re.DOTALL)
        for body in bodies:
            # A body's name is mangled with its length before it. In f64 and in integers of 64 bits (d, l, m) nothing is trained.
            named = re.compile(f"{len(body)}{body}(?!I[^E]*[dlm]E)")
            kernels = [kernel for kernel in found if named.search(kernel[0])]
            if not kernels:
                print(f"{name}: no kernel of {body}")
                wrong += 1
            for _, _, stores, loads, registers in kernels:
                good = stores == "0" and loads == "0" and int(registers) <= MOST_REGISTERS
                wrong += not good
                print(f"{'ok  ' if good else 'FAIL'} {body}: {registers} registers, {stores} and {loads} bytes spilled")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
