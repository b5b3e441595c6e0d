"""Runs that are killed at random moments and go on: they must end as if nothing had happened."""

import csv
import json
import random
import re
import signal
import time

from cli.signals import ENDING

from .places import ALWAYS, RUNS, UPDATE, Found, left_behind
from .processes import END, run, spelled

SMALL = ("--compile", "off", "--dim", "4", "--save_every", "1", "--run_name", "r")
SHOP = ("--dataset", "shop", "--epochs", "6", *SMALL)
# fmt: off
COMMANDS = {
    "OneBP": SHOP,
    "TwoBP, LightGCN": ("--model", "TwoBP", "--encoder", "LightGCN", *SHOP),
    "TwoBP, ELSA": ("--model", "TwoBP", "--loss", "ELSA", *SHOP),
    "SVD": ("--model", "SVD", *SHOP),
    "EASE": ("--model", "EASE", "--dataset", "shop", "--run_name", "r"),
    "DeepFM, memory, stream": (
        "--model", "DeepFM", "--dataset", "ads", "--hidden", "8", "--batch_size", "64",
        "--epochs", "3", "--memory", "knn", "--incremental", "--slots", "6", *SMALL,
    ),
    "TwoBP, lambdaopt": ("--model", "TwoBP", "--loss", "BPR", "--regularizer", "lambdaopt", *SHOP),
    "OneBP, update": (*UPDATE, "--run_name", "one"),
    "OneBP, refit": ("--select", "valid", "--refit", *SHOP),
    "OneBP, l2_grid": ("--select", "valid", "--l2_grid", "1", "0.1", *SHOP),
}
# fmt: on
# Entries of summary.json that an undisturbed run has, too.
REPEATED = ("seed", "dataset", "protocol", "best", "last", "baselines", "chosen_flags", "stream")
MOST = 4  # kills of one run


class Kills:
    """Undisturbed runs, made when they are needed, and runs to kill or to interrupt."""

    def __init__(self, places, seed):
        self.places, self.seed, self.whole = places, seed, {}

    def make(self, number, kinds=tuple(COMMANDS)):
        """Kill run `number`, of one of the kinds, and go on until it ends. Returns Found."""
        kind = kinds[number % len(kinds)]
        if kind not in self.whole:
            self.whole[kind] = self._undisturbed(kind)
        names, results, changes, seconds = self.whole[kind]
        rng = random.Random(f"{self.seed}:kills:{number}")
        folder, said, kills = self.places.fresh(), [], rng.randint(1, MOST)
        for left in range(kills, -1, -1):
            words, how = to_go_on(kind, folder), {}
            if left:
                way = rng.choice(("event", "event", signal.SIGKILL, rng.choice(ENDING)))
                how = {"event": rng.randint(1, changes)}
                if way != "event":
                    how = {"end": (way, rng.uniform(0, seconds))}
            ended = run(folder, words, **how)
            said.append(f"{how or 'to the end'}: {spelled(words)}")
            # Before the work a signal ends it at once, and SIGKILL always does.
            died = left and ended.status in (-signal.SIGKILL, -how.get("end", END)[0])
            fault = None if died else ended.fault()
            if ended.status == 2:
                fault = f"it does not go on: {ended.errors}"
            if fault or not left:
                break
        fault = fault or left_behind(folder) or difference(results, results_in(folder, names))
        return Found(kind, "worked", fault, "\n    ".join(said), kills)

    def _undisturbed(self, kind):
        folder = self.places.fresh()
        count, begin = folder.parent / "tmp/count", time.monotonic()
        ended = run(folder, to_go_on(kind, folder), count=count)
        seconds = time.monotonic() - begin
        if ended.status:
            raise RuntimeError(f"{kind}: {ended.errors}")
        names = {path.name for path in folder.glob("runs/*")} - RUNS.keys() - {"one-update"}
        return names, results_in(folder, names), int(count.read_text()), seconds


def to_go_on(kind, folder):
    """The words that start a run or, after a kill, go on with it."""
    if kind == "OneBP, update" and (folder / "checkpoints/one-update2").exists():
        return ["--train_mode", "continue", "--run_name", "one-update2", *ALWAYS]
    # That of a grid is in the runs of its members.
    begun = any(folder.glob("checkpoints/r*/last.pt"))
    return [*COMMANDS[kind], *ALWAYS, *(("--train_mode", "continue") if begun else ())]


def results_in(folder, names):
    """{path: content that an undisturbed run has, too} of all files of the runs of some names."""
    results = {}
    for path in [*folder.glob("runs/*/*"), *folder.glob("checkpoints/*/*")]:
        name = path.name
        if name == "log.txt" or path.parent.name not in names:
            continue
        content = path.read_bytes()
        if name == "summary.json":
            content = {key: json.loads(content).get(key) for key in REPEATED}
        elif name in ("metrics.csv", "grid.csv"):
            rows = csv.DictReader(content.decode().splitlines())
            content = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
        elif path.suffix == ".log":
            content = re.sub(rb"\S+ \S+ |eval_time.*", b"", content)
        results[str(path.relative_to(folder))] = content
    return results


def difference(results, others):
    """What differs between two results, a text, or None."""
    wrong = [name for name in sorted({*results, *others}) if results.get(name) != others.get(name)]
    return f"other than undisturbed: {', '.join(wrong)}" if wrong else None
