#!/usr/bin/env python3
"""Splits every cost graph of a folder and lets its evaluate.py judge: usage: score.py FOLDER MPC_PROGRAM.

An answer is good when the scorer finds it feasible, gets mpc's value (relative 1e-9: sums in another order) and bound
below it, and for contiguous splits finds the stages in order. Exit 1 names every answer that is not.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

BUDGET = "300ms"
SKIPPED = 77


def forward_is_acyclic(graph):
    forward = {node["id"] for node in graph["nodes"] if not node["backward"]}
    after = {node: [] for node in forward}
    missing = dict.fromkeys(forward, 0)
    for edge in graph["edges"]:
        if edge["from"] in forward and edge["to"] in forward:
            after[edge["from"]].append(edge["to"])
            missing[edge["to"]] += 1
    ready = [node for node in forward if missing[node] == 0]
    for node in ready:
        for other in after[node]:
            missing[other] -= 1
            if missing[other] == 0:
                ready.append(other)
    return len(ready) == len(forward)


def problems(folder, program, path, graph, flags, scratch):
    command = [program, "partition", "--cost-graph", str(path), "--json", "-", "--quiet", "--budget", BUDGET] + flags
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        yield f"exit code {run.returncode}: {run.stderr.strip()}"
        return
    answer = json.loads(run.stdout)
    scratch.write_text(json.dumps({"assign": answer["assignment"]}), encoding="utf-8")
    cpus = flags[flags.index("--cpus") + 1] if "--cpus" in flags else str(graph["devices"].get("cpus") or 0)
    judge = [sys.executable, str(folder / "evaluate.py"), str(path), str(scratch), "--cpu-devices", cpus]
    score = json.loads(subprocess.run(judge, capture_output=True, text=True, check=True).stdout)
    value = answer["objective"]["value"]
    if not score["feasible"]:
        yield f"not feasible: {score['errors']}"
    elif abs(score["max_load"] - value) > 1e-9 * max(value, score["max_load"]):
        yield f"the scorer finds {score['max_load']}, mpc says {value}"
    if answer["objective"]["lower_bound"] > value * (1 + 1e-9):
        yield f"the bound {answer['objective']['lower_bound']} is above the value {value}"
    if "--contiguous" in flags and forward_is_acyclic(graph) and not (score["contiguous"] and score["acyclic"]):
        yield "the stages are not contiguous"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    if not (folder / "evaluate.py").is_file():
        print(f"skipped: no evaluate.py in {folder}")
        sys.exit(SKIPPED)
    failed = count = 0
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(folder.glob("*.json")):
            graph = json.loads(path.read_text(encoding="utf-8"))
            if graph.get("kind") != "placement":
                continue
            settings = [["--contiguous"], []]
            if graph["devices"].get("cpus"):
                settings += [["--contiguous", "--cpus", "0"], ["--cpus", "0"]]
            for flags in settings:
                count += 1
                for problem in problems(folder, sys.argv[2], path, graph, flags, pathlib.Path(scratch) / "assign.json"):
                    failed += 1
                    print(f"{path.name} {' '.join(flags)}: {problem}")
    print(f"{count} splits scored, {failed} problems")
    sys.exit(1 if failed or not count else 0)


if __name__ == "__main__":
    main()
