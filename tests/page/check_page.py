#!/usr/bin/env python3
"""Opens reports of mpc in Chromium without a screen: usage: check_page.py MPC_PROGRAM.

Checked: the page draws itself to the end, draws every node of a model of 2,000, and a model's names can neither put
markup into it nor run script. Ends with 77 where no Chromium is installed."""
import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = "</script><script>document.documentElement.dataset.owned='yes'</script><img src=x onerror=\"document.documentElement.dataset.owned='yes'\">"


class Page(html.parser.HTMLParser):
    """Counts what the browser made of the page."""

    def __init__(self, text):
        super().__init__()
        self.tags = {}
        self.boxes = 0
        self.root = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag == "html":
            self.root = attributes
        if tag == "rect" and attributes.get("class") == "box":
            self.boxes += 1


def run(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{command}: ended with {result.returncode}\n{result.stderr[-2000:]}")
    return result.stdout


def rendered(browser, folder, path, fragment=""):
    """The document after its script ran, and what the browser's console says."""
    log = folder / "console.log"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               f"--user-data-dir={folder / 'profile'}", "--enable-logging", f"--log-file={log}",
               "--virtual-time-budget=20000", "--window-size=1500,1200", "--dump-dom", path.as_uri() + fragment]
    text = run(command)
    console = log.read_text(errors="replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    return Page(text), [line for line in console.splitlines() if "CONSOLE" in line]


def check(condition, what):
    print(("ok      " if condition else "FAILED  ") + what)
    return bool(condition)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    browser = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if browser is None:
        print("skipped: no Chromium is installed (Debian: apt-get install chromium)")
        sys.exit(77)
    mpc = os.path.abspath(sys.argv[1])
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model, plan, report = folder / "m.onnx", folder / "plan.json", folder / "r.html"

        run([mpc, "zoo", "gpt2", "-o", str(model), "--no-weights", "--quiet", "--size", "layers=100", "--size", "hidden=32",
             "--size", "heads=2", "--size", "vocab=64", "--size", "sequence=8", "--size", "positions=8"])
        answer = json.loads(run([mpc, "partition", str(model), "--devices", "cpu:4", "--batch", "4", "--microbatches", "4",
                                 "--report", str(report), "--json", "-"]))
        nodes = sum(device["nodes"] for device in answer["devices"])
        good &= check(nodes >= 2000, f"the large model has {nodes} nodes")
        page, console = rendered(browser, folder, report)
        good &= check(page.root.get("data-drawn") == "yes" and not console, f"the large report draws itself ({console[:3]})")
        good &= check(0 < page.boxes < 400, f"its blocks are folded: {page.boxes} boxes")
        page, console = rendered(browser, folder, report, "#open")
        good &= check(page.root.get("data-drawn") == "yes" and page.boxes == nodes, f"opened, {page.boxes} boxes stand for its nodes")

        run([mpc, "zoo", "mlp", "-o", str(model), "--quiet"])
        run([mpc, "partition", str(model), "--devices", "cpu:2", "--train", "--batch", "64", "--microbatches", "4", "-o", str(plan), "--quiet"])
        changed = json.loads(plan.read_text())
        changed["model"]["path"] = HOSTILE
        for i, value in enumerate(changed["values"]):
            value["name"] = f"{HOSTILE} {i}"
        for i, node in enumerate(changed["nodes"]):
            node["name"] = f"{HOSTILE} {i}"
        for i, transfer in enumerate(changed["transfers"]):
            transfer["name"] = f"{HOSTILE} {i}"
        for device in changed["devices"]:
            device["hardware"] = HOSTILE
        changed["notes"] = [HOSTILE]
        changed["warnings"] = [HOSTILE]
        plan.write_text(json.dumps(changed))
        run([mpc, "simulate", str(plan), "--report", str(report), "--quiet"])
        page, console = rendered(browser, folder, report, "#open")
        good &= check(page.root.get("data-drawn") == "yes" and not console, f"a hostile plan is drawn ({console[:3]})")
        good &= check("data-owned" not in page.root, "its names run no script")
        good &= check(page.tags.get("img", 0) == 0 and page.tags.get("script") == 2, "its names add no markup")
        # The policy holds even where escaping failed: the same script put in as markup does not run.
        forced = re.sub("<main>", "<main><script>document.documentElement.dataset.owned='yes'</script>", report.read_text(), count=1)
        report.write_text(forced)
        page, console = rendered(browser, folder, report)
        good &= check(page.tags.get("script") == 3 and "data-owned" not in page.root, "the page's policy stops script that is not its own")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
