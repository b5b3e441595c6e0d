"""Damaged files: the program works with them, or refuses in one line."""

import random

from .damage import damage
from .kills import difference, results_in
from .places import ALWAYS, RECOMMEND, UPDATE, Found, end_of, left_behind, trained
from .processes import run, spelled

UPDATED = {"one", "one-update", "elsa"}
# {row of the table: patterns of the files to damage}
FILES = {
    "last.pt, best.pt": ("checkpoints/*/last.pt", "checkpoints/*/best.pt"),
    "data.pt, update.pt": ("checkpoints/one/data.pt", "checkpoints/one-update/update.pt"),
    "stream.pt": ("checkpoints/*/stream.pt",),
    "caches": ("datasets/*/.cache/*/*",),
    "arrays": ("datasets/grid/*",),
    "interactions": ("datasets/shop/*.csv", "datasets/more.csv", "lists.csv"),
    "clicks": ("datasets/ads/*.csv",),
    "metrics.csv, ...": ("runs/*/*.csv", "runs/*/*.json", "runs/*/*.toml", "runs/*/*.parquet"),
}
# What is made anew, so that a command that works ends with the bytes of an undamaged one.
MADE_ANEW = ("stream.pt", "caches")


class Mutations:
    """Damages files of trained runs and of their data, in copies of `places`."""

    def __init__(self, places, seed):
        self.places, self.seed, self.undamaged = places, seed, {}

    def make(self, number):
        """Damage a file and run a command that reads it. Returns what was Found."""
        rng = random.Random(f"{self.seed}:mutations:{number}")
        folder = self.places.fresh()
        kind = list(FILES)[number % len(FILES)]
        files = sorted(path for pattern in FILES[kind] for path in folder.glob(pattern))
        path = rng.choice([path for path in files if path.is_file()])
        program, words = rng.choice(commands(path.relative_to(folder), rng))
        way, said = damage(path, rng, files)
        # Of checkpoints and datasets, all but caches must stay as they are if it refuses.
        kept = [path for path in folder.glob("[cd]*/**/*") if path.is_file()]
        kept = {path: path.read_bytes() for path in kept if ".cache" not in path.parts}
        ended = run(folder, words, program)
        fault = ended.fault() or left_behind(folder)
        if not fault and ended.asked_to_end:
            fault = "it takes too long"
        if not fault and ended.status:
            lost = [p for p, content in kept.items() if not _same(p, content)]
            fault = f"refused, but changed: {lost[0].relative_to(folder)}" if lost else None
        elif not fault and kind in MADE_ANEW:
            results = results_of_all(folder)  # before its place is another's
            fault = difference(self._undamaged(words, program), results)
        what = f"{path.relative_to(folder)}, {way}: {said}\n    {spelled(words, program)}"
        return Found(kind, end_of(ended), fault, what)

    def _undamaged(self, words, program):
        """The results of a command whose files are whole."""
        if (command := spelled(words, program)) not in self.undamaged:
            folder = self.places.fresh()
            ended = run(folder, words, program)
            if ended.status:
                raise RuntimeError(f"{command}: {ended.errors}")
            self.undamaged[command] = results_of_all(folder)
        return self.undamaged[command]


def results_of_all(folder):
    """The results of all runs in a folder, see kills.results_in.

    A finished run to which nothing is done keeps a damaged stream.pt, and its flags.toml.
    """
    results = results_in(folder, {path.name for path in folder.glob("runs/*")})
    return {
        name: x for name, x in results.items() if not name.endswith(("stream.pt", "flags.toml"))
    }


def _same(path, content):
    return path.is_file() and path.read_bytes() == content


def commands(path, rng):
    """[(program, words)] that read a file."""
    run_name = path.parent.name
    if "datasets" in path.parts:
        return [("main.py", words) for words in that_read_data(path.parts, rng)]
    if path.name == "lists.csv":
        words = ["--mode", "evaluate", "--dataset", "shop", "--recommendations", path.name]
        return [("main.py", [*words, *ALWAYS])]
    go_on = [*trained(run_name), "--train_mode", "continue", *ALWAYS]
    if "--epochs" in go_on:
        go_on[go_on.index("--epochs") + 1] = rng.choice("345")
    if path.name in ("last.pt", "best.pt"):
        modes = [["--mode", "evaluate"]]
        if run_name not in ("svd", "deep"):
            modes += [RECOMMEND, ["--mode", "export", "--output", "out"]]
        modes = [[*words, "--checkpoint", path.stem] for words in modes]
        modes += [UPDATE] if run_name in UPDATED and path.stem == "best" else []
        uses = [[*words, "--run_name", run_name, *ALWAYS] for words in modes]
        return [("main.py", words) for words in (go_on, *uses)]
    if path.suffix == ".pt":
        update = [*UPDATE, "--run_name", run_name, *ALWAYS]
        return [("main.py", update if path.name == "data.pt" else go_on)]
    if path.name == "flags.toml":
        return [("main.py", ["--like", run_name, "--run_name", "other", *ALWAYS])]
    studies = [
        ("study.py", words) for words in (["table", run_name], ["compare", run_name, "elsa"])
    ]
    return [*studies, ("main.py", go_on)]


def that_read_data(parts, rng):
    """Command lines that read a data set. parts: of the path of its file"""
    readers = {"shop": ("one", "elsa", "svd", "ease"), "ads": ("deep",), "grid": ("grid",)}
    name = next((name for name in readers if name in parts), None)
    if not name:  # more.csv
        history = ["--mode", "recommend", "--history", "datasets/more.csv"]
        return [[*words, "--run_name", "one", *ALWAYS] for words in (UPDATE, history)]
    train = [*trained(rng.choice(readers[name])), *ALWAYS]
    model = ["--model", "LR"] if name == "ads" else []
    describe = ["--mode", "describe", "--dataset", name, *model, *ALWAYS]
    if name == "ads":
        return [train, describe, describe]
    return [train, describe, describe, ["--mode", "split", "--output", "out", *describe[2:]]]
