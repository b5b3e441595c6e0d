"""Small data sets and trained runs for the faults, and what a command must not leave."""

import json
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .processes import load, run

ALWAYS = ("--no_download",)  # what every command line of the faults has
# fmt: off
RUNS = {
    "one": ("--dataset", "shop"),
    "elsa": ("--model", "TwoBP", "--loss", "ELSA", "--dataset", "shop"),
    "svd": ("--model", "SVD", "--dataset", "shop"),
    "deep": (
        "--model", "DeepFM", "--dataset", "ads", "--hidden", "8", "--memory", "knn",
        "--incremental", "--slots", "3",
    ),
    "lambda": ("--model", "TwoBP", "--loss", "BPR", "--regularizer", "lambdaopt",
               "--dataset", "shop"),
    "ease": ("--model", "EASE", "--dataset", "shop"),
    "grid": ("--dataset", "grid"),
}
# fmt: on
UPDATE = ("--train_mode", "update", "--update_from", "datasets/more.csv")
RECOMMEND = ("--mode", "recommend", "--users", "all")
TRAIN = ("--compile", "off", "--epochs", "3", "--dim", "4", "--save_every", "1")


@dataclass(frozen=True)
class Found:
    """What was found of one fault that was made.

    kind: row of the table
    end: its column: worked, refused, out of memory, stopped
    fault: what is wrong, or None
    what: was made, a text
    kills: how many processes were killed
    """

    kind: str
    end: str
    fault: str | None
    what: str
    kills: int = 0


def end_of(ended):
    """The column of the table for a process that ended."""
    if ended.out_of_memory:
        return "out of memory"
    return {0: "worked", 2: "refused"}.get(ended.status, "stopped")


def trained(name):
    """The words that train one of RUNS."""
    if name == "ease":
        return [*RUNS[name], "--run_name", name]
    own = RUNS[name.removesuffix("-update")]
    return [*own, *TRAIN, "--run_name", name]


def write_data(folder):
    """Write the data sets: shop (ratings), more of shop, ads (clicks), grid (arrays)."""
    rng = random.Random(1)
    pairs = sorted({(rng.randrange(40), int(30 * rng.random() ** 2)) for _ in range(700)})
    rows = [(user, item, rng.randint(1, 5), 10**9 + 60 * n) for n, (user, item) in enumerate(pairs)]
    rng.shuffle(rows)
    _write_table(folder / "shop/ratings.csv", "userId,movieId,rating,timestamp", rows)
    rows = [(40 + n % 3, n % 33, 5, 2 * 10**9 + n) for n in range(40)]
    _write_table(folder / "more.csv", "userId,movieId,rating,timestamp", rows)
    clicks = [(rng.randrange(2), n % 20, rng.randrange(15), rng.randrange(24)) for n in range(600)]
    _write_table(folder / "ads/clicks.csv", "label,user,movie,hour", clicks)
    (folder / "grid").mkdir()
    items = [rng.sample(range(12), 8) for _ in range(10)]
    for split, part in (("train", slice(0, 6)), ("test", slice(6, 8))):
        of_users = np.array([sorted(own[part]) for own in items], dtype=np.int32)
        np.save(folder / f"grid/{split}.indptr.npy", np.arange(11) * of_users.shape[1])
        np.save(folder / f"grid/{split}.indices.npy", of_users.ravel())
    (folder / "grid/about.json").write_text(json.dumps({"users": 10, "items": 12}))


def _write_table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


class Places:
    """Folders for one command after the other, each a copy of one with the trained RUNS."""

    def __init__(self):
        load()
        self.root = tempfile.TemporaryDirectory(prefix="onebp-faults-")
        self.model = Path(self.root.name) / "model/work"
        write_data(self.model / "datasets")
        lists = (*RECOMMEND, "--topk", "3", "--output", "lists.csv", "--run_name", "one")
        for words in (*map(trained, RUNS), [*UPDATE, "--run_name", "one"], lists):
            ended = run(self.model, [*words, *ALWAYS])
            if ended.status or ended.errors:
                raise RuntimeError(f"{words}: {ended.errors}")

    def fresh(self):
        """A new copy of the folder; the one before is removed."""
        place = Path(self.root.name) / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.model, place / "work", symlinks=True)
        return place / "work"


def left_behind(folder):
    """What a command left that it must not leave, a text, or None.

    Locks, temporary files, and anything beside the current directory `folder`.
    """
    place = folder.parent
    beside = [path for path in place.iterdir() if path.name not in ("work", "tmp")]
    hidden = [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".lock")]
    inside = [path for path in (place / "tmp").glob("*") if "torchinductor" not in path.name]
    found = [str(path.relative_to(place)) for path in (*beside, *hidden, *inside)]
    return f"left behind: {', '.join(found)}" if found else None
