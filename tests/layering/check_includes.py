#!/usr/bin/env python3
"""Checks who includes whom: usage: check_includes.py SOURCE_DIR. Exit 1 names every include that the layout forbids."""
import pathlib
import re
import sys

# A folder may include from itself and from these. include/mpc is the public API: only api, tools and embedders see it,
# except its error.h, which is the one exception type everywhere.
ALLOWED = {
    "compiler/base": [],
    "compiler/ir": ["compiler/base"],
    "compiler/ops": ["compiler/base", "compiler/ir"],
    "compiler/onnx": ["compiler/base", "compiler/ir", "compiler/ops"],
    "compiler/cost": ["compiler/base", "compiler/ir", "compiler/ops"],
    "compiler/plan": ["compiler/base"],
    "passes": ["compiler/base", "compiler/ir", "compiler/ops", "compiler/onnx", "compiler/cost", "compiler/plan"],
    "executor": ["compiler/base", "compiler/plan"],
    "models": ["compiler/base"],
    "include/mpc": [],
}
PROTOBUF = ("onnx/", "google/protobuf")
ONNX_USERS = ("compiler/onnx", "models")
CLI11_USER = "tools/command_line.cpp"  # a header of seconds: one file of tools compiles it
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)


def folder_of(path):
    for folder in sorted(ALLOWED, key=len, reverse=True):
        if path == folder or path.startswith(folder + "/"):
            return folder
    return None


def violations(root):
    paths = [path for part in ("compiler", "passes", "executor", "models", "include") for path in (root / part).rglob("*")]
    for path in sorted(paths):
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh"):
            continue
        name = path.relative_to(root).as_posix()
        folder = folder_of(name)
        if folder is None:
            continue
        for quote, target in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if quote == "<" or target.startswith(PROTOBUF):
                if target.startswith(PROTOBUF) and folder not in ONNX_USERS:
                    yield f"{name}: includes {target}: only {' and '.join(ONNX_USERS)} see protobuf"
                continue
            if target.startswith("mpc/"):
                if folder != "include/mpc" and target not in ("mpc/error.h", "mpc/errors.def"):
                    yield f"{name}: includes the public header {target}"
                continue
            other = folder_of(target)
            if other is None:
                if target.split("/")[0] in ("tests", "tools", "api", "bench"):
                    yield f"{name}: includes {target}"
                continue
            if other != folder and other not in ALLOWED[folder]:
                yield f"{name}: {folder} may not include from {other} ({target})"
    for path in sorted((root / "tools").glob("*.*")):
        name = path.relative_to(root).as_posix()
        if name != CLI11_USER and path.suffix in (".h", ".cpp") and "#include <CLI/" in path.read_text(encoding="utf-8"):
            yield f"{name}: includes CLI11: only {CLI11_USER} does"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1])
    found = list(violations(root))
    for line in found:
        print(line)
    print(f"{len(found)} violation(s)")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
