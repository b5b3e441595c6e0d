"""How good are the lists of users who were not in training, but moved by their history afterwards?

python benchmarks/newusers.py [--data_dir datasets] [--share 0.2] [--epochs 100]

A share of the users of 1M is hidden from training. Then `--mode recommend --history` gets their training interactions
in the order of the file. Beside them: the users who were in training, and the hidden ones as they fare where they are
trained with all others.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from common import ROOT, options, show

FLAGS = (
    "--dim 128 --lr 5e-3 --lr_schedule cosine --l2 1e-6 --eval_every 1000 --batch_size 1024 --N 5"
)
K, PASSES = 20, (1, 2, 5, 10)


def main_py(folder, *words):
    """Run main.py in `folder`."""
    command = [sys.executable, ROOT / "main.py", *map(str, words)]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def recall(lists, wanted):
    """Recall@K of lists (user, item) for the users of `wanted` (user, item)."""
    hits = lists.merge(wanted).groupby("user").size()
    size = wanted.groupby("user").size()
    return (hits.reindex(size.index, fill_value=0) / size).mean()


def main():
    given = options(__doc__, share=0.2, epochs=100)
    source = Path(given.data_dir).resolve() / "1M"
    parts = {
        part: pd.read_csv(next(source.glob(f"{part}.csv*")), dtype=str, usecols=["user", "item"])
        for part in ("train", "test")
    }
    users = np.sort(parts["train"]["user"].unique())
    hidden = np.random.default_rng(0).choice(users, round(given.share * len(users)), replace=False)
    away = {part: table["user"].isin(hidden) for part, table in parts.items()}
    lists = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dataset in ("most", "all"):
            (folder / "datasets" / dataset).mkdir(parents=True)
            for part, table in parts.items():
                kept = table[~away[part]] if dataset == "most" else table
                kept.to_csv(folder / "datasets" / dataset / f"{part}.csv", index=False)
            main_py(
                folder,
                "--dataset",
                dataset,
                "--run_name",
                dataset,
                "--epochs",
                given.epochs,
                *FLAGS.split(),
            )
            use = ("--mode", "recommend", "--run_name", dataset, "--topk", K)
            main_py(folder, *use, "--users", "all", "--output", f"{dataset}.csv")
            lists[dataset] = pd.read_csv(folder / f"{dataset}.csv", dtype=str)
            if dataset == "most":
                parts["train"][away["train"]].to_csv(folder / "history.csv", index=False)
                for passes in PASSES:
                    moved = ("--history", "history.csv", "--passes", passes, "--output", "new.csv")
                    main_py(folder, *use, *moved)
                    lists[passes] = pd.read_csv(folder / "new.csv", dtype=str)
        popularity = json.loads((folder / "runs/all/summary.json").read_text())["baselines"][
            "Popularity"
        ]
    new, old = parts["test"][away["test"]], parts["test"][~away["test"]]
    rows = {
        **{
            f"hidden users, {passes} times through their history": recall(lists[passes], new)
            for passes in PASSES
        },
        "hidden users, trained with the others": recall(lists["all"], new),
        "the other users, trained": recall(lists["most"], old),
        "popularity, all users": popularity[f"Recall@{K}"],
    }
    table = {name: {f"Recall@{K}": f"{value:.4f}"} for name, value in rows.items()}
    show(
        f"1M, {len(hidden)} of {len(users)} users hidden from training, dim 128, {given.epochs} epochs",
        table,
    )


if __name__ == "__main__":
    main()
