"""Files of the strengths that lambdaOpt learned: by epoch and frequency, or by id for an export.

Shapes: R rows of a table, D dim, E epochs, G groups of rows.
"""

import numpy as np
import pandas as pd
import torch

from reports.figures import Series, save_figure
from utils import write_csv

GROUPS = 5  # of users or items by frequency; the mean strength of each is recorded


def training_counts(data):
    """Training interactions of each user and of each item, {"user": (U,), "item": (I,)}."""
    return {
        "user": np.diff(data.train.indptr),
        "item": np.bincount(data.train.indices, minlength=data.shape[1]),
    }


def frequency_groups(degree, groups):
    """Divide rows by frequency into groups of about equal size. Returns each row's group (R,).

    Group 0 has the rows with the fewest interactions. With fewer rows than groups, some groups
    have no members.

    degree (R,): number of interactions of each row
    groups: their number
    """
    position = np.empty(len(degree), dtype=np.int64)
    position[np.argsort(degree, kind="stable")] = np.arange(len(degree))
    return torch.as_tensor(position * groups // len(degree))


def group_means(strength, group, groups):
    """Mean strength of each group (G,), nan for a group without members.

    strength (R or 1, D or 1)
    group (R,): each row's group
    groups: their number, G
    """
    mean = strength.mean(1).cpu().double().expand(len(group))  # (R,)
    total = torch.zeros(groups, dtype=torch.float64).index_add_(0, group, mean)
    return total / group.bincount(minlength=groups)


def write_files(state, data, folder):
    """Write strengths.csv and strengths.png into a run's folder. Returns their paths.

    state: what LambdaOpt.state_dict returned
    data: the data set of the run
    """
    table_file, plot_file = (folder / f"strengths.{kind}" for kind in ("csv", "png"))
    table = by_epoch(state["trajectory"], training_counts(data))
    write_csv(table_file, table)
    save_figure(plot_file, folder.name, [*epoch_panels(table), *dimension_panels(state)])
    return table_file, plot_file


def by_epoch(trajectory, counts):
    """Table of strengths.csv: a row per epoch, kind (user or item) and group that has members.

    Groups are numbered from 1; group 1 has the rows with the fewest interactions.

    trajectory: {name: mean strengths (E, G)}
    counts: {name: training interactions (R,)}
    """
    tables = []
    for name, means in trajectory.items():
        group = frequency_groups(counts[name], means.shape[1]).numpy()
        for number in np.unique(group):
            members = counts[name][group == number]
            interactions = f"{members.min()}-{members.max()}"
            columns = {
                "epoch": np.arange(1, len(means) + 1),
                "kind": name,
                "group": number + 1,
                "interactions": interactions,
                "strength": means[:, number].numpy(),
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables).sort_values("epoch", kind="stable", ignore_index=True)


def epoch_panels(table):
    """Yield a panel for users and one for items, with a line per group. table: by_epoch's."""
    for name, rows in table.groupby("kind", sort=False):
        groups = [group for _, group in rows.groupby("group")]
        lines = [(group["interactions"].iloc[0], group["strength"]) for group in groups]
        yield Series(lines, "epoch", f"mean strength, {name}s", f"interactions per {name}")


def dimension_panels(state):
    """A list with one panel: the root mean square of the strengths by dimension.

    Empty if no strengths differ by dimension.
    """
    lines = []
    for key, strength in state["strengths"].items():
        if strength.shape[1] > 1:
            tables = [f"{name}s" for name, owner in state["owner"].items() if owner == key]
            lines.append((" and ".join(tables), rms(strength)))
    label = "root mean square strength, last epoch"
    return [Series(lines, "dimension", label, joined=False)] if lines else []


def rms(strength):
    """Root mean square over the rows: (R, D) -> (D,)."""
    return strength.square().mean(0).sqrt().numpy()


def strengths_by_row(state, sizes):
    """The strengths of each row of each table, {name: (R, D or 1)}; {} if the model has none.

    Strengths that rows share are repeated.

    state: of the model
    sizes: (users, items)
    """
    state, sizes = state.get("regularizer", {}), dict(zip(("user", "item"), sizes, strict=True))
    return {
        name: state["strengths"][key].expand(sizes[name], -1)
        for name, key in state.get("owner", {}).items()
    }
