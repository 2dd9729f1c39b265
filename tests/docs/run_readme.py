#!/usr/bin/env python3
"""Runs the commands of README.md's console block: usage: run_readme.py README.md MPC_PROGRAM. Each must end with 0."""
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    program = os.path.abspath(sys.argv[2])
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    if not commands:
        sys.exit("README.md has no console block")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            words = shlex.split(command, comments=True)
            if words[0] != "mpc":
                sys.exit(f"not an mpc command: {command}")
            result = subprocess.run([program] + words[1:], cwd=folder, capture_output=True, text=True, check=False)
            print(f"{result.returncode:3d}  {command}")
            if result.returncode != 0:
                failed += 1
                print(result.stdout[-2000:], result.stderr[-2000:], sep="\n")
    print(f"{len(commands) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
