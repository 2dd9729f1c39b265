#!/usr/bin/env python3
"""Plans stages for every graph of kind "piper" and lets evaluate.py judge: usage: score_stages.py FOLDER MPC_PROGRAM.

An answer is good when the scorer finds it feasible and gets mpc's time (relative 1e-9: sums in another order), above its
bound. Exit 1 names every answer that is not.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

SKIPPED = 77
# devices, memory, micro-batches beside what the file says
SETTINGS = [{}, {"count": 4, "memory_bytes": 16 << 30, "microbatches": 60}, {"count": 96, "memory_bytes": 8 << 30, "microbatches": 480}]


def problems(folder, program, path, scratch):
    run = subprocess.run([program, "partition", "--cost-graph", str(path), "--json", "-", "--quiet"], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        yield f"exit code {run.returncode}: {run.stderr.strip()}"
        return
    answer = json.loads(run.stdout)
    stages = scratch / "stages.json"
    stages.write_text(json.dumps(answer["stages"]), encoding="utf-8")
    judge = [sys.executable, str(folder / "evaluate.py"), "--piper", str(path), str(stages)]
    score = json.loads(subprocess.run(judge, capture_output=True, text=True, check=True).stdout)
    value = answer["objective"]["value"]
    if not score["feasible"]:
        yield f"not feasible: {score['errors']}"
    elif abs(score["tps"] - value) > 1e-9 * value:
        yield f"the scorer finds {score['tps']}, mpc says {value}"
    if answer["objective"]["lower_bound"] > value * (1 + 1e-9):
        yield f"the bound {answer['objective']['lower_bound']} is above the value {value}"


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
            if graph.get("kind") != "piper":
                continue
            for setting in SETTINGS:
                graph["devices"].update(setting)
                changed = pathlib.Path(scratch) / path.name
                changed.write_text(json.dumps(graph), encoding="utf-8")
                count += 1
                for problem in problems(folder, sys.argv[2], changed, pathlib.Path(scratch)):
                    failed += 1
                    print(f"{path.name} {setting}: {problem}")
    print(f"{count} pipelines scored, {failed} problems")
    sys.exit(1 if failed or not count else 0)


if __name__ == "__main__":
    main()
