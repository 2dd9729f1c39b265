#!/usr/bin/env python3
"""Splits every cost graph of a folder, lets the folder's evaluate.py score the answers, and writes a table.

usage: cost_graphs.py FOLDER --mpc PROGRAM [--budget 10s] [--only TEXT] -o OUTPUT_STEM

Writes OUTPUT_STEM.json and OUTPUT_STEM.md: value, bound, gap and CPU seconds of every split, beside the best value known
before (cost_graphs_best.json). The budget is that of free splits; contiguous ones run without. CPU time, because wall
time on a shared machine measures its other users. Needs the standard library only.
"""
import argparse
import json
import math
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile

BEST = pathlib.Path(__file__).with_name("cost_graphs_best.json")
SAME = 1e-7  # published values are rounded to six decimals


def measure(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {run.returncode}: {run.stderr.strip()}")
    return json.loads(run.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def score(folder, path, answer, cpus, scratch):
    scratch.write_text(json.dumps({"assign": answer["assignment"]}), encoding="utf-8")
    command = [sys.executable, str(folder / "evaluate.py"), str(path), str(scratch), "--cpu-devices", str(cpus)]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if not result["feasible"]:
        sys.exit(f"{path.name}: the scorer finds it not feasible: {result['errors']}")
    return result["max_load"]


def split(options, path, cpus, is_contiguous, known, scratch):
    command = [options.mpc, "partition", "--cost-graph", str(path), "--cpus", str(cpus), "--json", "-", "--quiet"]
    command += ["--contiguous"] if is_contiguous else ["--budget", options.budget]
    answer, seconds = measure(command)
    value = score(pathlib.Path(options.folder), path, answer, cpus, scratch)
    row = {
        "graph": path.stem,
        "cpus": cpus,
        "kind": "contiguous" if is_contiguous else "free",
        "value": value,
        "lower_bound": answer["objective"]["lower_bound"],
        "gap": answer["objective"]["gap"],
        "optimal": answer["objective"]["optimal"],
        "algorithm": answer["algorithm"],
        "cpu_seconds": round(seconds, 3),
    }
    if known is not None:
        row["best_known"] = known
        row["ratio"] = value / known
    return row


def table(rows):
    lines = ["| graph | CPUs | kind | value | bound | gap | best known | ratio | CPU s |", "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        gap = "optimal" if row["optimal"] else f"{100 * row['gap']:.2f} %"
        known = f"{row['best_known']:.6f}" if "best_known" in row else "-"
        ratio = f"{row['ratio']:.6f}" if "ratio" in row else "-"
        lines.append(f"| {row['graph']} | {row['cpus']} | {row['kind']} | {row['value']:.6f} | {row['lower_bound']:.6f} | {gap} | {known} | {ratio} | {row['cpu_seconds']:.2f} |")
    return "\n".join(lines)


def summary(rows):
    result = {}
    for kind in ("contiguous", "free"):
        ratios = [row["ratio"] for row in rows if row["kind"] == kind and "ratio" in row]
        if ratios:
            result[kind] = {
                "splits": len(ratios),
                "geometric_mean_ratio": math.exp(sum(map(math.log, ratios)) / len(ratios)),
                "worst_ratio": max(ratios),
                "at_or_below_best": sum(ratio <= 1 + SAME for ratio in ratios),
            }
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--mpc", required=True)
    parser.add_argument("--budget", default="10s")
    parser.add_argument("--only", default="", help="graphs with this in their name")
    parser.add_argument("--build", default="release preset", help="how the program was built, for the record")
    parser.add_argument("-o", "--output", required=True)
    options = parser.parse_args()
    best = {(row["graph"], row["cpus"]): row for row in json.loads(BEST.read_text(encoding="utf-8"))["rows"]}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(pathlib.Path(options.folder).glob("*.json")):
            graph = json.loads(path.read_text(encoding="utf-8"))
            if graph.get("kind") != "placement" or options.only not in path.stem:
                continue
            listed = [cpus for name, cpus in best if name == path.stem]
            for cpus in sorted(listed or {0, graph["devices"].get("cpus") or 0}):
                for kind in ("contiguous", "free"):
                    known = best.get((path.stem, cpus), {}).get(kind)
                    rows.append(split(options, path, cpus, kind == "contiguous", known, pathlib.Path(scratch) / "assign.json"))
                    print(table(rows[-1:]).splitlines()[-1], flush=True)
    record = {
        "command": f"bench/cost_graphs.py FOLDER --budget {options.budget}",
        "build": options.build,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
        "summary": summary(rows),
        "rows": rows,
    }
    stem = pathlib.Path(options.output)
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    words = [f"Free splits with `--budget {options.budget}`; {record['build']}; {record['machine']}.", ""]
    for kind, numbers in record["summary"].items():
        words.append(f"{kind}: {numbers['at_or_below_best']} of {numbers['splits']} at or below the best known value; ratio to it "
                     f"{numbers['geometric_mean_ratio']:.6f} (geometric mean), {numbers['worst_ratio']:.6f} (worst).")
    stem.with_suffix(".md").write_text("\n".join(words + ["", table(rows), ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
