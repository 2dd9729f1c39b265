#!/usr/bin/env python3
"""Plans pipelines of replicated and sharded stages for the graphs of kind "piper", scores them and writes a table.

usage: parallel_graphs.py FOLDER --mpc PROGRAM -o OUTPUT_STEM

FOLDER has the graphs and evaluate.py, the scorer. Devices, memory (8 GiB) and links (25 GiB/s) are those of the published
values (parallel_graphs_best.json), which replace the graph's own. Writes OUTPUT_STEM.json and OUTPUT_STEM.md. Needs the
standard library only.
"""
import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile

BEST = pathlib.Path(__file__).with_name("parallel_graphs_best.json")
MEMORY = 8 << 30
BANDWIDTH = 25 << 30
SAME = 5e-6  # published values are rounded to six digits


def plan(mpc, path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([mpc, "partition", "--cost-graph", str(path), "--json", "-", "--quiet"], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode != 0:
        sys.exit(f"{path.name}: exit code {run.returncode}: {run.stderr.strip()}")
    return json.loads(run.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(options, row, scratch):
    graph = json.loads((pathlib.Path(options.folder) / f"{row['graph']}.json").read_text(encoding="utf-8"))
    graph["devices"].update(count=row["devices"], microbatches=row["microbatches"], memory_bytes=MEMORY, bandwidth_bytes_per_time=BANDWIDTH)
    path, stages = scratch / "graph.json", scratch / "stages.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    answer, seconds = plan(options.mpc, path)
    stages.write_text(json.dumps(answer["stages"]), encoding="utf-8")
    judge = [sys.executable, str(pathlib.Path(options.folder) / "evaluate.py"), "--piper", str(path), str(stages)]
    score = json.loads(subprocess.run(judge, capture_output=True, text=True, check=True).stdout)
    value = answer["objective"]["value"]
    if not score["feasible"] or abs(score["tps"] - value) > 1e-9 * value:
        sys.exit(f"{row['graph']}: the scorer finds {score}, mpc says {value}")
    result = dict(row, value=value, lower_bound=answer["objective"]["lower_bound"], optimal=answer["objective"]["optimal"],
                  stages=len(answer["stages"]), cpu_seconds=round(seconds, 3))
    if "best" in row:
        result["ratio"] = value / row["best"]
    return result


def table(rows):
    lines = ["| graph | devices | micro-batches | stages | time per sample | bound | best known | ratio | CPU s | published s |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        bound = "optimal" if row["optimal"] else f"{row['lower_bound']:.6g}"
        lines.append(f"| {row['graph']} | {row['devices']} | {row['microbatches']} | {row['stages']} | {row['value']:.6g} | {bound} | "
                     f"{row.get('best', '-')} | {format(row['ratio'], '.6f') if 'ratio' in row else '-'} | {row['cpu_seconds']:.2f} | {row.get('best_seconds', '-')} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--mpc", required=True)
    parser.add_argument("-o", "--output", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = []
        for row in json.loads(BEST.read_text(encoding="utf-8"))["rows"]:
            rows.append(measure(options, row, pathlib.Path(scratch)))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    known = [row["ratio"] for row in rows if "ratio" in row]
    summary = f"{sum(ratio <= 1 + SAME for ratio in known)} of {len(known)} at or below the best known time; largest ratio {max(known):.6f}."
    record = {"command": "bench/parallel_graphs.py FOLDER", "machine": f"{platform.machine()}, {os.cpu_count()} cores", "summary": summary, "rows": rows}
    stem = pathlib.Path(options.output)
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(f"Pipelines of replicated and sharded stages, 8 GiB per device, links of 25 GiB/s. {summary}\n\n{table(rows)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
