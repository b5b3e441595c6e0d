"""Folders of finished runs, made without training."""

import json

import numpy as np
import pandas as pd

from parse import parse_args
from reports.names import SUMMARY, USERS

METRICS = ("Recall@20", "NDCG@20")
RANKING = {"select": "test", "ranking": "full", "ties": "lower item index first"}


def user_values(seed, users=40):
    """Metrics (users, 2) in steps of 1/20, many of them 0."""
    random = np.random.default_rng(seed)
    return random.binomial(20, random.beta(0.4, 2.0, (users, 1)), (users, 2)) / 20


def make_run(folder, *words, values=None, digest="d" * 64, metrics=METRICS, ids=None, **parts):
    """Write summary.json and, if there are `values` (users, metrics), users.parquet.

    words: flags of the run
    digest: of the data; metrics: names; ids: of the users
    parts: entries of the summary, in place of others
    """
    folder.mkdir(parents=True)
    args = parse_args([*map(str, words)])
    best = dict.fromkeys(metrics, 0.5)
    if values is not None:
        best = dict(zip(metrics, np.mean(values, axis=0).tolist(), strict=True))
        table = pd.DataFrame(values, columns=list(metrics))
        table.insert(0, "interactions", np.arange(len(values), dtype=np.int64))
        table.insert(0, "user", ids or [f"u{user}" for user in range(len(values))])
        table.sample(frac=1, random_state=args.seed).to_parquet(folder / USERS)
    summary = {
        "seed": args.seed,
        "dataset": {"name": "shop", "digest": digest},
        "protocol": RANKING,
        "best": {"epoch": 3, **best},
        "seconds": {"total": 1.25},
        "flags": vars(args),
    }
    (folder / SUMMARY).write_text(json.dumps(summary | parts))
    return folder
