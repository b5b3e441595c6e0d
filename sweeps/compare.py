"""Compare finished runs: is the difference to the first one more than chance over users?

    python study.py compare RUN RUN ... --metric NDCG@20

RUN is one of: the name of a run in --log_root, or its folder; the folder of a study, for each of
its combinations with their seeds; one combination, as studies/beta-100k/beta=0.9; runs that are
one model with several seeds, under a label: 'onebp=runs/onebp-seed*' (with quotation marks).
"""

import logging
from pathlib import Path

from cli.errors import UserError, status_of
from cli.flags import Flag, text, whole
from cli.signals import defer_interrupts
from cli.text import Multiline
from sweeps.command import CommandLine

log = logging.getLogger("onebp")

# fmt: off
FLAGS = [
    Flag("metric", None, text, nargs="+",
         help="metrics to compare, after the runs (default: the one that chose the first run's "
              "epoch)"),
    Flag("log_root", "runs", str, help="folder of the runs that are given by name"),
    Flag("seed", 0, whole(0), help="seed of the bootstrap"),
    Flag("output", "comparison", str, help="folder to write compare.csv and compare.png to"),
]
# fmt: on

CSV, FIGURE = "compare.csv", "compare.png"
LOWEST_P = 1e-4  # that is printed


def main(words):
    """Run the command. words: of the command line, after `compare`. Returns the exit status."""
    parser = CommandLine("compare", "RUN RUN ... [flags]", __doc__, FLAGS)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or several of one model")
    return status_of("study.py compare", run, parser.parse(words))


def run(given):
    """Compare the runs; log the table, and write it and the figure.

    given: the command's arguments

    Raises UserError if there is no such run or metric, or if runs cannot be compared.
    """
    with defer_interrupts():
        from sweeps import finished
        from utils import log_to_console, write_csv

    log_to_console()
    rows = [row for word in given.runs for row in finished.rows_of(word, given.log_root)]
    check_rows(rows)
    runs = [run for row in rows for run in row.runs]
    finished.check_same_data(runs)
    metrics = list(dict.fromkeys(given.metric or [runs[0].monitor]))

    tables = [row.users(metrics) for row in rows]
    for row, table in zip(rows, tables, strict=True):
        finished.check_same_users(rows[0].label, tables[0], row.label, table)
    table = compare(rows, tables, metrics, given.seed)

    log_table(table, runs[0])
    log_notes(rows)
    folder = Path(given.output)
    write_csv(folder / CSV, table)
    draw(folder / FIGURE, table, runs[0])
    log.info("%s: %s, %s", folder, CSV, FIGURE)


def check_rows(rows):
    """Raise UserError unless there are two rows or more, with labels of their own."""
    if len(rows) < 2:
        raise UserError(f"{rows[0].label} is alone; give two runs or more, or a study's folder")
    labels = [row.label for row in rows]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"two rows are {label}; give one a label: LABEL=FOLDER")


def compare(rows, tables, metrics, seed):
    """The content of compare.csv: a row for each metric and row of runs.

    rows: list of finished.Row
    tables: for each, the metrics of every user, means over its seeds
    metrics: names
    seed: of the bootstrap

    Columns: mean and std are of the runs' means over users (std: divided by seeds - 1); difference,
    low and high (95 % interval over users) are to the first row; p_t, p_wilcoxon, d_z, gain, lose
    and tie as in significance.paired_tests; p_t_holm and p_wilcoxon_holm are corrected over all
    comparisons of all metrics.
    """
    import numpy as np
    import pandas as pd

    from sweeps.significance import holm, mean_intervals, paired_tests

    random, found = np.random.default_rng(seed), []
    for metric in metrics:
        values = pd.concat([table[metric] for table in tables], axis=1).to_numpy()
        if len(values) < 2:
            raise UserError(f"{metric} is of {len(values)} users; an interval needs two or more")
        differences = values[:, 1:] - values[:, :1]  # (users, rows - 1)
        lows, highs = mean_intervals(differences, random)
        for number, row in enumerate(rows):
            of_seeds = pd.Series([run.metrics.get(metric, np.nan) for run in row.runs])
            numbers = {"metric": metric, "row": row.label, "seeds": len(row.runs)}
            numbers |= {"users": len(values), "mean": values[:, number].mean()}
            numbers["std"] = of_seeds.std()
            if number:
                own = differences[:, number - 1]
                numbers |= {"difference": own.mean(), "low": lows[number - 1]}
                numbers |= {"high": highs[number - 1], **paired_tests(own)}
            found.append(numbers)
    table = pd.DataFrame(found).astype(dict.fromkeys(("gain", "lose", "tie"), "Int64"))
    compared = table["p_t"].notna()
    for name in ("p_t", "p_wilcoxon"):
        corrected = pd.Series(holm(table.loc[compared, name]), table.index[compared])
        table.insert(table.columns.get_loc(name) + 1, f"{name}_holm", corrected)
    return table


def log_table(table, run):
    """Log a table for each metric. table: from `compare`; run: any of the runs"""
    import pandas as pd

    from reports.description import aligned

    for metric, rows in table.groupby("metric", sort=False):
        shown = pd.DataFrame({"runs": rows["row"], "seeds": rows["seeds"].map(str)})
        shown["mean"] = [
            f"{mean:.4f}" + ("" if pd.isna(std) else f" ± {std:.4f}")
            for mean, std in zip(rows["mean"], rows["std"], strict=True)
        ]
        shown["difference"] = rows["difference"].map("{:+.4f}".format)
        ends = zip(rows["low"], rows["high"], strict=True)
        shown["95 % interval"] = [f"{low:+.4f} to {high:+.4f}" for low, high in ends]
        shown["p, t"], shown["p, Wilcoxon"] = (
            rows[f"{name}_holm"].map(written_p) for name in ("p_t", "p_wilcoxon")
        )
        shown["d_z"] = rows["d_z"].map("{:+.2f}".format)
        for name in ("gain", "lose", "tie"):
            shown[name] = rows[name].map(str)
        shown.loc[rows["difference"].isna(), shown.columns[3:]] = ""
        data, users = run.summary["dataset"]["name"], rows["users"].iloc[0]
        title = f"{metric} on {data}, test split, {users:,} users; differences to the first row"
        text = aligned([[*shown.columns], *shown.to_numpy().tolist()])
        log.info("\n%s:\n\n%s\n", title, Multiline(text))
    log.info(
        "Intervals are over users (paired bootstrap), one each; p are corrected by Holm over %d "
        "comparisons.",
        table["p_t"].count(),
    )


def written_p(p):
    """A p-value as text."""
    return f"<{LOWEST_P:.4f}" if p < LOWEST_P else f"{p:.4f}"


def log_notes(rows):
    """Log what differs between rows beside the metrics, and what an interval does not say."""
    first = rows[0].runs[0]
    selects = {
        str(run.summary["protocol"].get("select")).split(",")[0] for row in rows for run in row.runs
    }
    if len(selects) > 1:
        chosen = "; ".join(
            f"{row.label}: {row.runs[0].summary['protocol'].get('select')}" for row in rows
        )
        log.warning("warning: other splits chose the epochs: %s", chosen)
    elif selects == {"test"}:
        log.info("The test split chose the epochs: all means are too high by some of that luck.")
    for row in rows[1:]:
        changed = differing_flags(first, row.runs[0], len(row.runs) > 1 or len(rows[0].runs) > 1)
        said = ", ".join(f"{flag}={now} (not {before})" for flag, before, now in changed)
        log.info("%s differs from %s in: %s", row.label, rows[0].label, said or "no flag")
    if alone := [row.label for row in rows if len(row.runs) == 1]:
        log.info(
            "Of one seed: %s. Another seed may differ by more than the interval; to compare "
            "models, give several seeds of each.",
            ", ".join(alone),
        )


def differing_flags(first, other, of_seeds):
    """[(flag, value in the first run, value in the other)] of the flags that both have.

    of_seeds: whether the runs stand for several seeds, so that theirs is no difference
    """
    return [
        (flag, value, other.deciding[flag])
        for flag, value in first.deciding.items()
        if other.deciding.get(flag, value) != value and not (of_seeds and flag == "seed")
    ]


def draw(path, table, run):
    """Draw the differences to the first row with their intervals, a panel for each metric.

    path: file to write; table: from `compare`; run: any of the runs
    """
    from reports.figures import Intervals, save_figure

    first = table["row"].iloc[0]
    panels = [
        Intervals(rows.iloc[1:], f"{metric}, difference")
        for metric, rows in table.groupby("metric", sort=False)
    ]
    users = table["users"].max()
    title = f"{run.summary['dataset']['name']}, {users:,} users: differences to {first}"
    save_figure(path, f"{title}\nwith 95 % bootstrap intervals", panels)
