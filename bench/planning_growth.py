#!/usr/bin/env python3
"""Measures how planning time and memory grow with the number of nodes, and draws it.

usage: planning_growth.py --mpc PROGRAM [--refine 20s] -o OUTPUT_STEM

Makes training graphs of 1,000 to 100,000 nodes (blocks of an attention-like diamond with skips, forward and backward
twins in one colour) in two families: a chain of such blocks, where stages are hard to beat, and a U, in which each block
of the first half also feeds its mirror image in the second, with large tensors as in a unet, where stages carry all of
them through. Splits them over 8 GPUs in stages, and with --refine freely with that budget, and writes
OUTPUT_STEM.json, .md and .svg. CPU seconds of the whole command, reading the file included, because wall time on a shared
machine measures its other users. Needs the standard library only.
"""
import argparse
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
GPUS = 8
FAMILIES = {"chain": "#1f5fa8", "U": "#b5521b"}  # and the colour of each
NODES_PER_BLOCK = 10  # forward
MIRRORED_COST = 4  # times the cost of other tensors
WIDTH, HEIGHT, MARGIN = 640, 400, 60


def graph(size, family):
    """Blocks in a row: one node feeds three arms of two nodes, which join; a skip goes around every block."""
    rng = random.Random(size)
    forward, last = [], None  # (time, memory, cost), inputs
    while len(forward) < size // 2:
        first = len(forward)
        names = range(first, first + NODES_PER_BLOCK)
        inputs = [[] if last is None else [last], [first], [first], [first], [first + 1], [first + 2], [first + 3],
                  [first + 4, first + 5, first + 6], [first + 7], [first + 8] + ([] if last is None else [last])]
        for name, reads in zip(names, inputs):
            forward.append((rng.uniform(0.5, 2), rng.randrange(1, 1 << 20), rng.uniform(0.01, 0.5), reads))
        last = names[-1]
    forward = forward[: size // 2]
    count = len(forward)
    if family == "U":
        blocks = count // NODES_PER_BLOCK
        for block in range(blocks // 2):
            last = (block + 1) * NODES_PER_BLOCK - 1
            time, memory, cost, reads = forward[last]
            forward[last] = (time, memory, MIRRORED_COST * cost, reads)
            forward[(blocks - 1 - block) * NODES_PER_BLOCK][3].append(last)
    nodes, edges = [], []
    for i, (time, memory, _, _) in enumerate(forward):
        nodes.append({"id": i, "name": f"f{i}", "time_gpu": time, "time_cpu": None, "memory_bytes": memory,
                      "backward": False, "color_class": i, "gpu_ok": True})
    for i, (time, _, _, _) in enumerate(forward):
        nodes.append({"id": count + i, "name": f"b{i}", "time_gpu": 2 * time, "time_cpu": None, "memory_bytes": 0,
                      "backward": True, "color_class": i, "gpu_ok": True})
    for i, (_, _, cost, reads) in enumerate(forward):
        for j in reads:
            edges.append({"from": j, "to": i, "cost": forward[j][2]})
            edges.append({"from": count + i, "to": count + j, "cost": cost})
        edges.append({"from": i, "to": count + i, "cost": cost})
    return {"name": f"growth-{family}-{size}", "kind": "placement", "time_unit": "ms", "nodes": nodes, "edges": edges,
            "devices": {"count": GPUS, "memory_bytes": 1 << 40, "cpus": 0}}


def write_graph(path, size, family):
    """In a process of its own: a child's largest resident bytes begin with those of its parent."""
    pathlib.Path(path).write_text(json.dumps(graph(size, family)), encoding="utf-8")


def measure(command, scratch):
    """The answer, CPU seconds and the largest resident bytes of one command."""
    with open(scratch, "wb") as output:
        child = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{' '.join(command)}: exit code {os.waitstatus_to_exitcode(status)}")
    answer = json.loads(pathlib.Path(scratch).read_text(encoding="utf-8"))
    return answer, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def growth(seconds):
    """The power of the nodes with which the seconds grow at the end."""
    return round(math.log(seconds[-1] / seconds[-2]) / math.log(SIZES[-1] / SIZES[-2]), 3)


def drawing(rows):
    """Seconds of contiguous splits over nodes, both logarithmic, with the line of linear growth through the last point."""
    sizes = list(SIZES)
    seconds = [row["contiguous_seconds"] for row in rows]
    last = seconds[-1] / sizes[-1]
    low_x, high_x = math.log10(sizes[0]), math.log10(sizes[-1])
    low_y = math.floor(math.log10(min(seconds + [last * sizes[0]])))
    high_y = math.ceil(math.log10(max(seconds)))

    def x(size):
        return MARGIN + (math.log10(size) - low_x) / (high_x - low_x) * (WIDTH - 2 * MARGIN)

    def y(value):
        return HEIGHT - MARGIN - (math.log10(value) - low_y) / (high_y - low_y) * (HEIGHT - 2 * MARGIN)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             f'<text x="{WIDTH / 2}" y="24" text-anchor="middle">CPU seconds of a contiguous split on {GPUS} GPUs</text>']
    for power in range(low_y, high_y + 1):
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y(10 ** power):.1f}" y2="{y(10 ** power):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{y(10 ** power) + 4:.1f}" text-anchor="end">{10 ** power:g} s</text>')
    for size in sizes:
        parts.append(f'<text x="{x(size):.1f}" y="{HEIGHT - MARGIN + 20}" text-anchor="middle">{size:,}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">nodes (dashed: linear growth)</text>')
    parts.append(f'<line x1="{x(sizes[0]):.1f}" y1="{y(last * sizes[0]):.1f}" x2="{x(sizes[-1]):.1f}" y2="{y(seconds[-1]):.1f}" stroke="#888" stroke-dasharray="5 4"/>')
    for number, (family, color) in enumerate(FAMILIES.items()):
        points = [(x(row["nodes"]), y(row["contiguous_seconds"])) for row in rows if row["family"] == family]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{color}"/>' for a, b in points]
        parts.append(f'<text x="{MARGIN + 12}" y="{MARGIN + 18 * (number + 1)}" fill="{color}">{family}</text>')
    return "\n".join(parts + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mpc", required=True)
    parser.add_argument("--refine", help="also free splits, with this budget each")
    parser.add_argument("-o", "--output", required=True)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for family, size in itertools.product(FAMILIES, SIZES):
            path = os.path.join(folder, "graph.json")
            make = multiprocessing.Process(target=write_graph, args=(path, size, family))
            make.start()
            make.join()
            command = [options.mpc, "partition", "--cost-graph", path, "--json", "-", "--quiet"]
            answer, seconds, peak = measure(command + ["--contiguous"], os.path.join(folder, "answer.json"))
            row = {"family": family, "nodes": size, "contiguous_seconds": round(seconds, 4), "peak_bytes": peak,
                   "contiguous_value": answer["objective"]["value"], "contiguous_gap": answer["objective"]["gap"]}
            if options.refine:
                answer, seconds, peak = measure(command + ["--budget", options.refine], os.path.join(folder, "answer.json"))
                row |= {"free_seconds": round(seconds, 2), "free_peak_bytes": peak, "free_value": answer["objective"]["value"],
                        "free_gap": answer["objective"]["gap"]}
            rows.append(row)
            print(row, flush=True)
    slopes = {family: growth([row["contiguous_seconds"] for row in rows if row["family"] == family]) for family in FAMILIES}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    record = {"command": "bench/planning_growth.py" + (f" --refine {options.refine}" if options.refine else ""),
              "machine": machine, "last_exponent": slopes, "rows": rows}
    stem = pathlib.Path(options.output)
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".svg").write_text(drawing(rows), encoding="utf-8")
    lines = [f"Training graphs on {GPUS} GPUs, the file read included; {machine}. From {SIZES[-2]:,} to {SIZES[-1]:,} nodes the seconds "
             "grow with the power " + " and ".join(f"{slope:.2f} ({family})" for family, slope in slopes.items()) + " of the nodes.", "", f"![seconds over nodes]({stem.name}.svg)", "",
             "| family | nodes | contiguous: CPU s | gap | peak MiB |" + (f" free, {options.refine}: CPU s | gap | of the contiguous value | peak MiB |" if options.refine else ""),
             "|---|---|---|---|---|" + ("---|---|---|---|" if options.refine else "")]
    for row in rows:
        line = f"| {row['family']} | {row['nodes']:,} | {row['contiguous_seconds']:.3f} | {100 * row['contiguous_gap']:.2f} % | {row['peak_bytes'] / 2**20:.0f} |"
        if options.refine:
            line += f" {row['free_seconds']:.1f} | {100 * row['free_gap']:.2f} % | {row['free_value'] / row['contiguous_value']:.4f} | {row['free_peak_bytes'] / 2**20:.0f} |"
        lines.append(line)
    stem.with_suffix(".md").write_text("\n".join(lines + [""]), encoding="utf-8")


if __name__ == "__main__":
    main()
