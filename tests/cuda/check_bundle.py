#!/usr/bin/env python3
"""Packs a bundle, carries it to another folder, and uses it there as a machine would that has nothing but a C library.

usage: check_bundle.py SOURCE_DIR BUILD_DIR WORK_DIR

Where the system lets a user have a root of his own (unshare), the programs run a second time in one that holds the C
library and the bundle alone; elsewhere a line says that this was left out. gpu_check has to end with 77 without a GPU.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys

MOST_BYTES = 40_000_000
C_LIBRARY = ("libc.so", "libm.so", "libdl.so", "librt.so", "libpthread.so", "libresolv.so", "ld-linux")
# CPU kernels of the bundle add in other orders than oneDNN's.
NEAR = ["--rtol", "1e-5", "--atol", "1e-5"]
# No LD_LIBRARY_PATH, and nothing else that could lead to the libraries of this machine.
ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}


def run(words, code=0, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, env=ENVIRONMENT, **more)
    if done.returncode != code:
        sys.exit(f"{words}: ended with {done.returncode}, not {code}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def use(mpc, folder, before=()):
    """Every kind of command, started by the words `before`; paths are those that the started program sees."""
    facts = json.loads(run([*before, mpc, "devices", "--json", "-"]))
    libraries = [library["name"] for library in facts["cuda"]["libraries"]]
    if "cuBLASLt" not in libraries:
        sys.exit(f"devices: the plugin was not loaded: {facts['cuda']}")
    model = f"{folder}/mlp.onnx"
    run([*before, mpc, "zoo", "mlp", "-o", model])
    run([*before, mpc, "partition", model, "--devices", "cpu:2", "-o", f"{folder}/plan.json"])
    output = json.loads(run([*before, mpc, "inspect", model, "--json", "-"]))["outputs"][0]
    name = output["name"] if isinstance(output, dict) else output
    run([*before, mpc, "run", model, "--plan", f"{folder}/plan.json", "--input", "random", "--seed", "1", "--output", f"{name}={folder}/y.npy"])
    run([*before, mpc, "train", model, "--devices", "cpu:2", "--data", "synthetic", "--loss", "cross-entropy", "--batch", "8", "--steps", "2"])
    return facts, name


def bare_root(root, bundle):
    """A root of the C library, the bundle and nothing else. The machine's own, since none of another distribution is here."""
    shutil.copytree(bundle, root / "mpc")
    (root / "work").mkdir()
    (root / "proc").mkdir()
    for library in {line.split()[2] for line in run(["ldd", bundle / "bin" / "mpc"]).splitlines() if " => /" in line} | {"/lib64/ld-linux-x86-64.so.2"}:
        if os.path.basename(library).startswith(C_LIBRARY):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])


def may_enter(root):
    """Does the system allow what `enter` below does?"""
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount --rbind /proc "$0/proc"', root]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    source, build, work = (pathlib.Path(word).resolve() for word in sys.argv[1:])
    shutil.rmtree(work, ignore_errors=True)
    (work / "used").mkdir(parents=True)
    print(run([source / "scripts" / "bundle", "--build", build, work / "packed"]), end="")
    bundle = work / "carried"
    (work / "packed").rename(bundle)
    total = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    if total >= MOST_BYTES:
        sys.exit(f"the bundle has {total} bytes, at most {MOST_BYTES} are allowed")
    facts, name = use(bundle / "bin" / "mpc", work / "used")
    run([build / "bin" / "mpc", "run", work / "used" / "mlp.onnx", "--devices", "cpu:1", "--input", "random", "--seed", "1",
         "--compare", f"{name}={work / 'used' / 'y.npy'}", *NEAR])
    print(f"ok    {total} bytes; devices, zoo, partition, run and train from another folder")
    bare_root(work / "root", bundle)
    # Programs learn from /proc where they are, and so where ../lib is.
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"', work / "root"]
    if may_enter(work / "root"):
        use("/mpc/bin/mpc", "/work", enter)
        print("ok    the same where nothing but the C library is")
    else:
        print("left out: this system gives no user a root of his own")
    has_gpu = any(device["name"].startswith("cuda") for device in facts["devices"])
    run([bundle / "gpu_check", "--small", "--quick", work / "report.json"], code=0 if has_gpu else 77)
    print(f"ok    gpu_check {'passed' if has_gpu else 'ended with 77: no GPU'}")


if __name__ == "__main__":
    main()
