"""Runs that are killed at random moments and go on: they must end as if nothing had happened."""

import csv
import json
import random
import re
import signal
import time

from cli.signals import ENDING

from .places import ALWAYS, RUNS, UPDATE, Found, left_behind
from .processes import END, TORCHRUN, run, spelled

# fmt: off
SMALL = ("--compile", "off", "--dim", "4", "--save_every", "1", "--run_name", "r")
SHOP = ("--dataset", "shop", "--epochs", "6", *SMALL)
ADS = (
    "--model", "DeepFM", "--dataset", "ads", "--hidden", "8", "--batch_size", "64", "--epochs", "3",
    *SMALL,
)
OF_RUNS = ("--", "--dataset", "shop", "--epochs", "3", *SMALL[:-2])
COMMANDS = {
    "OneBP": SHOP,
    "TwoBP, LightGCN": ("--model", "TwoBP", "--encoder", "LightGCN", *SHOP),
    "TwoBP, ELSA": ("--model", "TwoBP", "--loss", "ELSA", *SHOP),
    "SVD": ("--model", "SVD", *SHOP),
    "EASE": ("--model", "EASE", "--dataset", "shop", "--run_name", "r"),
    "DeepFM, memory, stream": (*ADS, "--memory", "knn", "--incremental", "--slots", "6"),
    "TwoBP, lambdaopt": ("--model", "TwoBP", "--loss", "BPR", "--regularizer", "lambdaopt", *SHOP),
    "OneBP, update": (*UPDATE, "--run_name", "one"),
    "OneBP, refit": ("--select", "valid", "--refit", *SHOP),
    "OneBP, l2_grid": ("--select", "valid", "--l2_grid", "1", "0.1", *SHOP),
    "OneBP, two ranks": SHOP,
    "DeepFM, two ranks": ADS,
    "study.py": ("--over", "beta=0.9,0.99", "--seeds", "1", *OF_RUNS),
    "study.py search": (
        "search", "--space", "lr=log:1e-4:1e-1", "--trials", "3", "--seeds", "1", *OF_RUNS,
    ),
    "study.py online": (
        "online", "--periods", "3", "--models", "OneBP", "--seeds", "1", *OF_RUNS[:-2],
    ),
}
# fmt: on
# Entries of summary.json that an undisturbed run has, too.
REPEATED = ("seed", "dataset", "protocol", "best", "last", "baselines", "chosen_flags", "stream")
UNLIKE = ("log.txt", "optuna.log", "online.png", "chains")  # files and folders that hold times
MEASURED = re.compile("seconds|memory")  # in the names of columns that differ from run to run
ASIDE = re.compile(r"\.\d+$")  # at the end of the folder of a run that was set aside
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
            ended = run(folder, words, program_of(kind), **how)
            said.append(f"{how or 'to the end'}: {spelled(words, program_of(kind))}")
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
        ended = run(folder, to_go_on(kind, folder), program_of(kind), count=count)
        seconds = time.monotonic() - begin
        if ended.status:
            raise RuntimeError(f"{kind}: {ended.errors}")
        names = {path.name for path in folder.glob("runs/*")} - RUNS.keys() - {"one-update"}
        return names, results_in(folder, names), int(count.read_text()), seconds


def program_of(kind):
    """What runs the command of a kind, see processes.PROGRAMS."""
    if kind.startswith("study.py"):
        return "study.py"
    return TORCHRUN if kind.endswith("two ranks") else "main.py"


def to_go_on(kind, folder):
    """The words that start a run or, after a kill, go on with it."""
    if kind == "OneBP, update" and (folder / "checkpoints/one-update2").exists():
        return ["--train_mode", "continue", "--run_name", "one-update2", *ALWAYS]
    # That of a grid is in the runs of its members.
    begun = any(folder.glob("checkpoints/r*/last.pt"))
    return [*COMMANDS[kind], *ALWAYS, *(("--train_mode", "continue") if begun else ())]


def results_in(folder, names):
    """{path: content that an undisturbed run has, too} of all files of studies and of some runs.

    Not of runs that were set aside, as they had no checkpoint to go on from.
    """
    runs = [*folder.glob("runs/*/*"), *folder.glob("checkpoints/*/*")]
    paths = [path for path in runs if path.parent.name in names] + [*folder.glob("studies/**/*")]
    results = {}
    for path in paths:
        name = path.name
        if {name, path.parent.name} & {*UNLIKE} or path.is_dir() or ASIDE.search(path.parent.name):
            continue
        content = path.read_bytes() if path.is_file() else b"no file"
        if name == "summary.json":
            content = {key: json.loads(content).get(key) for key in REPEATED}
        elif path.suffix == ".csv":
            rows = csv.DictReader(content.decode().splitlines())
            content = [{k: v for k, v in row.items() if not MEASURED.search(k)} for row in rows]
        elif path.suffix == ".log":
            content = re.sub(rb"\S+ \S+ |eval_time.*", b"", content)
        results[str(path.relative_to(folder))] = content
    return results


def difference(results, others):
    """What differs between two results, a text, or None."""
    wrong = [name for name in sorted({*results, *others}) if results.get(name) != others.get(name)]
    return f"other than undisturbed: {', '.join(wrong)}" if wrong else None
