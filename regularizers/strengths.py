"""The strengths that lambdaOpt learned: by epoch and by frequency in the files of a run, by id in an export.

Shapes: R rows of a table, D dim, E epochs, G groups of rows.
"""

import numpy as np
import pandas as pd
import torch

from reports.figures import Series, save_figure
from utils import write_csv

GROUPS = 5  # of users or items of like frequency, of which the mean strength is recorded


def training_counts(data):
    """Training interactions of each user (U,) and of each item (I,), by the table's name."""
    return {
        "user": np.diff(data.train.indptr),
        "item": np.bincount(data.train.indices, minlength=data.shape[1]),
    }


def frequency_groups(degree, groups):
    """Of each row with its number of interactions (R,), the group (R,): `groups` of like size, 0 with the fewest.

    With fewer rows than groups some have no members.
    """
    rank = np.empty(len(degree), dtype=np.int64)
    rank[np.argsort(degree, kind="stable")] = np.arange(len(degree))
    return torch.as_tensor(rank * groups // len(degree))


def group_means(strength, group, groups):
    """Mean strength (G,) of each group; strength (R or 1, D or 1), group (R,). A group without members gets nan."""
    mean = strength.mean(1).cpu().double().expand(len(group))  # (R,)
    return torch.zeros(groups, dtype=torch.float64).index_add_(0, group, mean) / group.bincount(
        minlength=groups
    )


def write_files(state, data, folder):
    """Write strengths.csv and strengths.png into a run's folder. Returns their paths.

    state: what LambdaOpt.state_dict returned; data: what it was trained on.
    """
    table_file, plot_file = (folder / f"strengths.{kind}" for kind in ("csv", "png"))
    table = by_epoch(state["trajectory"], training_counts(data))
    write_csv(table_file, table)
    save_figure(plot_file, folder.name, [*epoch_panels(table), *dimension_panels(state)])
    return table_file, plot_file


def by_epoch(trajectory, counts):
    """strengths.csv: a row per epoch, kind, and group that has members, from 1, the rarest.

    trajectory: {name: (E, G)}, mean strengths; counts: {name: (R,)}, training interactions.
    """
    parts = []
    for name, means in trajectory.items():
        group = frequency_groups(counts[name], means.shape[1]).numpy()
        for number in np.unique(group):
            own = counts[name][group == number]
            about = {"kind": name, "group": number + 1, "interactions": f"{own.min()}-{own.max()}"}
            strength = means[:, number].numpy()
            parts.append(
                pd.DataFrame({"epoch": np.arange(1, len(means) + 1), **about, "strength": strength})
            )
    return pd.concat(parts).sort_values("epoch", kind="stable", ignore_index=True)


def epoch_panels(table):
    """Of users and of items a panel with a line per group, from strengths.csv."""
    for name, rows in table.groupby("kind", sort=False):
        lines = [
            (part["interactions"].iloc[0], part["strength"]) for _, part in rows.groupby("group")
        ]
        yield Series(lines, "epoch", f"mean strength, {name}s", f"interactions per {name}")


def dimension_panels(state):
    """A panel with the root mean square of the strengths by dimension, where they differ by it."""
    lines = [
        (
            " and ".join(f"{name}s" for name, owner in state["owner"].items() if owner == key),
            rms(strength),
        )
        for key, strength in state["strengths"].items()
        if strength.shape[1] > 1
    ]
    return (
        [Series(lines, "dimension", "root mean square strength, last epoch", joined=False)]
        if lines
        else []
    )


def rms(strength):
    """Root mean square over the rows: (R, D) -> (D,)"""
    return strength.square().mean(0).sqrt().numpy()


def strengths_by_row(state, sizes):
    """The strengths of each row of a table, {name: (R, D or 1)}, from a model's state; empty where it has none.

    sizes: (users, items). Strengths that rows share are repeated.
    """
    state, sizes = state.get("regularizer", {}), dict(zip(("user", "item"), sizes, strict=True))
    return {
        name: state["strengths"][key].expand(sizes[name], -1)
        for name, key in state.get("owner", {}).items()
    }
