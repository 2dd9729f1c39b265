#!/usr/bin/env python3
"""Checks the planner on variants of cost graphs that no one has tuned anything to.

usage: cost_graph_variants.py FOLDER --mpc PROGRAM [--budget 2s] [--only TEXT] [--variants 8] [--seed 1]
                              [-o OUTPUT_STEM [--resume]]

Of every graph of the folder, some variants drawn from: 2 to 8 GPUs, 0 to 2 CPU cores, memory times 0.8 to 2, costs times
1e-3 to 1e6, nodes renamed and permuted. Checked of each, with the folder's evaluate.py as the judge:
- an answer fits, or its bytes say why none does: the GPUs together hold less than there is (then exit code 5 is right)
- the bound is at most the value, and the free split is at most the contiguous one
- no split of one topological order into segments, one per GPU, is better than the contiguous one (a plain dynamic program
  that shares no code with the planner; graphs whose colours have a cycle are passed over)
- renamed, permuted and scaled, the graph gets the same value within 0.1 % (contiguous: within 1e-6, where it is optimal)
Exits with 1 when a check fails; with -o also writes OUTPUT_STEM.json and .md, after every variant, and with --resume goes
on where a run with the same arguments ended. Needs the standard library only.
"""
import argparse
import copy
import graphlib
import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile

SAME_FREE = 1e-3
SAME_OPTIMUM = 1e-6
DOES_NOT_FIT = 5


def permuted(graph, rng, scale):
    """The same graph with other ids, names, order and unit of time."""
    result = copy.deepcopy(graph)
    ids = [node["id"] for node in graph["nodes"]]
    new = dict(zip(ids, rng.sample(range(10 * len(ids)), len(ids))))
    for node in result["nodes"]:
        node["id"] = new[node["id"]]
        node["name"] = f"x{node['id']}"
        node["time_gpu"] *= scale
        if node.get("time_cpu") is not None:
            node["time_cpu"] *= scale
    for edge in result["edges"]:
        edge["from"], edge["to"], edge["cost"] = new[edge["from"]], new[edge["to"]], edge["cost"] * scale
    rng.shuffle(result["nodes"])
    rng.shuffle(result["edges"])
    return result


def topological_order(graph):
    """The colours in an order of the forward graph, backward edges reversed; nothing where it has a cycle."""
    color = {node["id"]: ("c", node["color_class"]) if node.get("color_class") is not None else ("n", node["id"])
             for node in graph["nodes"]}
    backward = {node["id"]: node["backward"] for node in graph["nodes"]}
    before = {block: set() for block in color.values()}
    for edge in graph["edges"]:
        first, second = edge["from"], edge["to"]
        if backward[first] != backward[second]:
            continue
        if backward[first]:
            first, second = second, first
        if color[first] != color[second]:
            before[color[second]].add(color[first])
    try:
        return list(graphlib.TopologicalSorter(before).static_order()), color
    except graphlib.CycleError:
        return None, color


def has_better_segments(graph, value):
    """Is there a split of one topological order into segments, one per GPU, with every load below `value`?"""
    order, color = topological_order(graph)
    nodes = {node["id"]: node for node in graph["nodes"]}  # rows that repeat a node cost nothing
    if order is None or not all(node.get("gpu_ok", True) for node in nodes.values()):
        return False
    cost, readers = {}, {}
    for edge in graph["edges"]:
        if edge["from"] != edge["to"]:
            cost[edge["from"]] = edge["cost"]
            readers.setdefault(edge["from"], set()).add(edge["to"])
    inputs = {}
    for name, users in readers.items():
        for user in users:
            inputs.setdefault(user, []).append(name)
    members = {block: [] for block in order}
    for name in nodes:
        members[color[name]].append(name)
    capacity, limit = graph["devices"]["memory_bytes"], value * (1 - 1e-9)
    least = [0] + [math.inf] * len(order)  # GPUs for each prefix
    for first in range(len(order)):
        if least[first] >= graph["devices"]["count"]:
            continue
        time = memory = transfers = 0
        inside, count = set(), {}

        def paid(name):
            is_made_here, here = name in inside, count.get(name, 0)
            return cost[name] if (here < len(readers[name]) if is_made_here else here > 0) else 0

        for last in range(first, len(order)):
            for name in members[order[last]]:
                touched = inputs.get(name, []) + ([name] if name in readers else [])
                transfers -= sum(paid(t) for t in touched)
                inside.add(name)
                for t in inputs.get(name, []):
                    count[t] = count.get(t, 0) + 1
                transfers += sum(paid(t) for t in touched)
                time += nodes[name]["time_gpu"]
                memory += nodes[name]["memory_bytes"]
            if time >= limit or memory > capacity:
                break
            if time + transfers < limit:
                least[last + 1] = min(least[last + 1], least[first] + 1)
    return least[-1] <= graph["devices"]["count"]


class Checker:
    def __init__(self, options, scratch):
        self.options, self.scratch = options, pathlib.Path(scratch)
        self.failures, self.rows, self.done = [], [], set()

    def resume(self, record):
        self.failures, self.rows = record["failures"], record["rows"]
        self.done = {(row["graph"], row["number"]) for row in self.rows}

    def fail(self, text):
        self.failures.append(text)
        print(f"FAILED {text}", flush=True)

    def split(self, graph, label, *flags):
        """The objective of an answer that the judge accepts; nothing where the program says that none fits."""
        path = self.scratch / "graph.json"
        path.write_text(json.dumps(graph), encoding="utf-8")
        command = [self.options.mpc, "partition", "--cost-graph", str(path), "--json", "-", "--quiet", *flags]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            if run.returncode != DOES_NOT_FIT:
                self.fail(f"{label}: exit code {run.returncode}: {run.stderr.strip()}")
            return None
        answer = json.loads(run.stdout)
        assign = self.scratch / "assign.json"
        assign.write_text(json.dumps({"assign": answer["assignment"]}), encoding="utf-8")
        judge = [sys.executable, str(pathlib.Path(self.options.folder) / "evaluate.py"), str(path), str(assign)]
        score = json.loads(subprocess.run(judge, capture_output=True, text=True, check=True).stdout)
        objective = answer["objective"]
        if not score["feasible"]:
            self.fail(f"{label}: the judge finds it not feasible: {score['errors']}")
        if abs(score["max_load"] - objective["value"]) > 1e-9 * max(1e-300, score["max_load"]):
            self.fail(f"{label}: says {objective['value']}, the judge {score['max_load']}")
        if objective["lower_bound"] > objective["value"] * (1 + 1e-9):
            self.fail(f"{label}: bound {objective['lower_bound']} above value {objective['value']}")
        return objective

    def check(self, graph, rng, label):
        """What the checks found of one variant, as a row."""
        free = self.split(graph, label + " free", "--budget", self.options.budget)
        stages = self.split(graph, label + " contiguous", "--contiguous")
        if free is None:
            needed = sum(node["memory_bytes"] for node in graph["nodes"])
            if stages is not None or (needed <= graph["devices"]["count"] * graph["devices"]["memory_bytes"] / 2):
                self.fail(f"{label}: no free split, though one is known or half the memory would do")
            print(f"{label}: does not fit", flush=True)
            return {"variant": label}
        if stages is not None and free["value"] > stages["value"] * (1 + 1e-9):
            self.fail(f"{label}: free {free['value']} above contiguous {stages['value']}")
        if has_better_segments(graph, stages["value"] if stages else math.inf):
            self.fail(f"{label}: segments of a topological order are better than the contiguous split")
        scale = rng.choice([1e-3, 1, 17, 1e6])
        other = permuted(graph, rng, scale)
        ratios = []
        again = self.split(other, label + " permuted free", "--budget", self.options.budget)
        ratios.append(again["value"] / scale / free["value"] if again else float("inf"))
        if abs(ratios[0] - 1) > SAME_FREE:
            self.fail(f"{label}: permuted, the free value is {ratios[0]:.6f} times as large")
        if stages is not None:
            again = self.split(other, label + " permuted contiguous", "--contiguous")
            ratios.append(again["value"] / scale / stages["value"] if again else float("inf"))
            if abs(ratios[1] - 1) > (SAME_OPTIMUM if stages["optimal"] else SAME_FREE):
                self.fail(f"{label}: permuted, the contiguous value is {ratios[1]:.6f} times as large")
        row = {"variant": label, "free": free["value"], "gap": free["gap"], "permuted_free": ratios[0]}
        if stages is not None:
            row |= {"contiguous": stages["value"], "permuted_contiguous": ratios[1]}
        print(f"{label}: free {free['value']:.6g}, gap {100 * free['gap']:.2f} %, permuted " + " ".join(f"{r:.6f}" for r in ratios), flush=True)
        return row


def command_of(options):
    command = f"bench/cost_graph_variants.py FOLDER --budget {options.budget} --variants {options.variants} --seed {options.seed}"
    return command + (f" --only {options.only}" if options.only else "")


def write(stem, options, checker, is_complete):
    """What was checked, as JSON and as a table; where a number is missing, no split fits."""
    command = command_of(options)
    stem.with_suffix(".json").write_text(
        json.dumps({"command": command, "complete": is_complete, "failures": checker.failures, "rows": checker.rows}, indent=1) + "\n", encoding="utf-8")
    lines = [f"`{command}`: {len(checker.failures)} failures in {len(checker.rows)} variants"
             + ("." if is_complete else "; not complete, go on with --resume."), ""]
    lines += [f"- {text}" for text in checker.failures] + ([""] if checker.failures else [])
    lines += ["Permuted: the value of the same graph with its nodes renamed and in another order, and its costs scaled, over that of the graph as it is.", "",
              "| variant | free | gap | permuted | contiguous | permuted |", "|---|---|---|---|---|---|"]
    for row in checker.rows:
        cells = [f"{row[name]:.6g}" if name in row else "-" for name in ("free", "gap", "permuted_free", "contiguous", "permuted_contiguous")]
        if "gap" in row:
            cells[1] = f"{100 * row['gap']:.2f} %"
        lines.append(f"| {row['variant']} | " + " | ".join(cells) + " |")
    stem.with_suffix(".md").write_text("\n".join(lines + [""]), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--mpc", required=True)
    parser.add_argument("--budget", default="2s")
    parser.add_argument("--only", default="", help="graphs with this in their name")
    parser.add_argument("--variants", type=int, default=8, help="of every graph")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", help="also write OUTPUT.json and OUTPUT.md")
    parser.add_argument("--resume", action="store_true", help="variants that stand in OUTPUT.json are not checked again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checker = Checker(options, scratch)
        if options.resume and options.output and (earlier := pathlib.Path(options.output).with_suffix(".json")).exists():
            record = json.loads(earlier.read_text(encoding="utf-8"))
            if record["command"] != command_of(options):
                sys.exit(f"{earlier}: made by {record['command']}, which asks for other variants")
            checker.resume(record)
        for path in sorted(pathlib.Path(options.folder).glob("*.json")):
            original = json.loads(path.read_text(encoding="utf-8"))
            if original.get("kind") != "placement" or options.only not in path.stem:
                continue
            for number in range(options.variants):
                if (path.stem, number) in checker.done:
                    continue
                rng = random.Random(f"{options.seed} {path.stem} {number}")
                graph = copy.deepcopy(original)
                has_cpu_times = all(node.get("time_cpu") is not None for node in graph["nodes"])
                graph["devices"]["count"] = rng.randrange(2, 9)
                graph["devices"]["cpus"] = rng.randrange(3) if has_cpu_times else 0
                memory = rng.choice([0.8, 1, 1.3, 2])
                graph["devices"]["memory_bytes"] = int(graph["devices"]["memory_bytes"] * memory)
                devices = graph["devices"]
                label = f"{path.stem} k={devices['count']} cpus={devices['cpus']} memory x{memory}"
                checker.rows.append({"graph": path.stem, "number": number} | checker.check(graph, rng, label))
                if options.output:
                    write(pathlib.Path(options.output), options, checker, False)
        if options.output:
            write(pathlib.Path(options.output), options, checker, True)
        print(f"{len(checker.failures)} failures")
        sys.exit(1 if checker.failures else 0)


if __name__ == "__main__":
    main()
