"""How good are recommendations to users who were not in training, but have a history?

python benchmarks/newusers.py [--data_dir datasets] [--share 0.2] [--epochs 100]

A share of the users of 1M is hidden from training. Then `--mode recommend --history` gets their
training interactions, in the order of the file. For comparison: the users who were in training, and
the hidden users when all users are trained.
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
    """Recall@K, the mean over the users of `wanted`.

    lists: table with the recommended items, columns user and item
    wanted: table with the users' test items, columns user and item
    """
    hits = lists.merge(wanted).groupby("user").size()
    size = wanted.groupby("user").size()
    return (hits.reindex(size.index, fill_value=0) / size).mean()


def main():
    given = options(__doc__, share=0.2, epochs=100)
    source = Path(given.data_dir).resolve() / "1M"
    files = {split: next(source.glob(f"{split}.csv*")) for split in ("train", "test")}
    tables = {
        split: pd.read_csv(file, dtype=str, usecols=["user", "item"])
        for split, file in files.items()
    }

    # Choose the users to hide. is_hidden: whether a row is of one of them.
    users = np.sort(tables["train"]["user"].unique())
    hidden = np.random.default_rng(0).choice(users, round(given.share * len(users)), replace=False)
    is_hidden = {split: table["user"].isin(hidden) for split, table in tables.items()}

    # Train without the hidden users ("most") and with them ("all"), and recommend.
    lists = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dataset in ("most", "all"):
            (folder / "datasets" / dataset).mkdir(parents=True)
            for split, table in tables.items():
                trained = table[~is_hidden[split]] if dataset == "most" else table
                trained.to_csv(folder / "datasets" / dataset / f"{split}.csv", index=False)
            names = ("--dataset", dataset, "--run_name", dataset)
            main_py(folder, *names, "--epochs", given.epochs, *FLAGS.split())
            use = ("--mode", "recommend", "--run_name", dataset, "--topk", K)
            main_py(folder, *use, "--users", "all", "--output", f"{dataset}.csv")
            lists[dataset] = pd.read_csv(folder / f"{dataset}.csv", dtype=str)
            if dataset == "most":
                history = tables["train"][is_hidden["train"]]
                history.to_csv(folder / "history.csv", index=False)
                for passes in PASSES:
                    new_users = ("--history", "history.csv", "--passes", passes)
                    main_py(folder, *use, *new_users, "--output", "new.csv")
                    lists[passes] = pd.read_csv(folder / "new.csv", dtype=str)
        summary = json.loads((folder / "runs/all/summary.json").read_text())
        popularity = summary["baselines"]["Popularity"]

    new, old = tables["test"][is_hidden["test"]], tables["test"][~is_hidden["test"]]
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
    title = f"1M, {len(hidden)} of {len(users)} users hidden from training"
    show(f"{title}, dim 128, {given.epochs} epochs", table)


if __name__ == "__main__":
    main()
