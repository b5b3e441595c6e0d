"""What tests of several ranks share."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tools import PATIENCE, checkpoint, finish, toy_data, write

from checkpointing.shards import load, save
from distributed import collectives
from distributed.schedule import own_batch_size
from families import model_class
from parse import parse_args
from sources.share import own_share

FLAGS = ("--dim", 8, "--lr", 0.05)


CPU = torch.device("cpu")


def own_flags(args):
    """The flags of a rank's model, as main.train_model has them."""
    return args.replace(batch_size=own_batch_size(args.batch_size))


def rows(name, folder="runs"):
    """metrics.csv of a run, less its times."""
    table = pd.read_csv(Path(folder) / name / "metrics.csv")
    return table.drop(columns=["train_seconds", "eval_seconds"])


def made_model(kind, groups, *flags):
    """A model of this rank's share of the toy data, ready to train."""
    args = parse_args([str(word) for word in ("--model", kind, *FLAGS, *flags)])
    model = model_class(args)(own_share(toy_data(groups)), own_flags(args), CPU)
    model.start_training()
    return model


WAYS = "pieces", "rows", "touched rows", "own piece"
PIECES, ROWS, TOUCHED, OWN = ({"item": way} for way in WAYS)


IN_BATCH = ("--sampler", "inbatch", "--similarity", "cosine")


def whole(name, weights):
    """The table of all users from the ranks' weights, or another, which all ranks share."""
    tables = [own[name] for own in weights]
    if name == "user":
        return torch.cat(tables)
    assert all(torch.equal(table, tables[0]) for table in tables), name
    return tables[0]


def trained_and_loaded(folder, lr, *made):
    """A model after an epoch, and a new one that has loaded its checkpoint."""
    model, again = (made_model(*made) for _ in range(2))
    model.train_epoch(lr, lambda: None)
    save(checkpoint(1, model=model.state_dict()), model.data, folder / "last.pt")
    collectives.all_reduce_int(0)  # the first one has written
    again.load_state_dict(load(folder / "last.pt", model.data)["model"])
    return model, again


def succeed(process):
    """Wait for a process that must not fail. Returns its output."""
    status, output, errors = finish(process)
    assert status == 0, errors
    return output


def wait_for_epoch(name, epochs):
    """Wait until metrics.csv has so many rows."""
    path, limit = Path(f"runs/{name}/metrics.csv"), time.time() + PATIENCE
    while not path.exists() or path.read_text().count("\n") <= epochs:
        assert time.time() < limit
        time.sleep(0.01)


def children(pid):
    """The processes that `pid` started and that are alive."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def write_clicks(folder, size=4000):
    """Write the data set `shop`, in which a movie is liked or not.

    Rows differ, so that the nearest examples of a memory are never equally near.
    """
    random = np.random.default_rng(0)
    pairs = random.choice(100 * 400, size, replace=False)
    viewer, movie, hour = pairs // 400, pairs % 400, random.integers(5, size=size)
    score = np.where(movie % 2, 1.5, -1.5) + 0.5 * (hour - 2)
    clicked = (score + random.logistic(size=size) > 0).astype(int)
    table = pd.DataFrame({"label": clicked, "user": viewer, "movie": movie, "hour": hour})
    write(folder / "datasets/shop/clicks.csv", table.to_csv(index=False))
