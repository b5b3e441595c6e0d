"""Study of models in time: trained once, updated after each period, or trained anew.

    python study.py online --periods 10 -- --dataset ml-100k --split time

Trains on the first half of the interactions. Then, period after period: evaluates on the period's
interactions, and learns them, in three ways side by side.
"""

import logging
import math
import os
import time
from pathlib import Path

import families
from cli import checks
from cli.errors import UserError, status_of
from cli.flags import Flag, one_of, plain_name, share, whole
from cli.shared_flags import UPDATE
from cli.signals import defer_interrupts
from cli.text import Multiline
from sweeps.command import CommandLine
from sweeps.studies import (
    ONLINE,
    SET_BY_STUDIES,
    check_identity,
    identity_of,
    named_flags,
    parse_run_flags,
)

log = logging.getLogger("onebp")

# Flags of main.py that have no place here, each with the advice to a user who gives it.
OF_EPOCHS = dict.fromkeys(
    ("select", "refit", "l2_grid", "patience", "eval_every", "save_every"),
    "each model trains all its epochs, and is evaluated on the next period",
)
OWN_FLAGS = {"model": "give --models", "seed": "give --seeds", **SET_BY_STUDIES, **OF_EPOCHS}
ANEW = "remove it, then its periods are trained anew"  # advice for a damaged file of a chain
WAYS = ("never", "update", "anew")
# fmt: off
FLAGS = [
    Flag("periods", 10, whole(1), help="periods of equal numbers of interactions"),
    Flag("start", 0.5, share, help="share of the interactions before the first period"),
    Flag("models", [*ONLINE], one_of(*ONLINE), nargs="+",
         help="models to compare; -all: against all items"),
    Flag("seeds", 3, whole(1), help="train with the seeds 1, 2, ... up to this one"),
    Flag("study_root", "studies", str, help="folder of the studies"),
    Flag("name", None, plain_name, help="name of the study's folder (default: online-<data set>)"),
]
# fmt: on


def main(words):
    """Run `study.py online` with these words of the command line. Returns the exit status."""
    usage = "[flags of the study] [--] [flags of main.py]"
    return status_of(
        "study.py online", run, *CommandLine("online", usage, __doc__, FLAGS).divide(words)
    )


def flags_of_models(given, fixed):
    """{name: parse.Flags} of the chosen models. Raises UserError for a wrong flag.

    given: the study's own flags; fixed: words for main.py
    """
    named = named_flags(fixed)
    check_fixed(named)
    flags = {}
    for name in dict.fromkeys(given.models):
        own = {flag: value for flag, value in ONLINE[name].items() if flag not in named}
        flags[name] = parse_run_flags(fixed, own)
        args = flags[name]
        check_fixed({flag for flag in OF_EPOCHS if getattr(args, flag) != args.default(flag)})
    return flags


def check_fixed(flags):
    """Raise UserError if one of these flags is not for the user to give."""
    for flag in OWN_FLAGS.keys() & flags:
        raise UserError(f"--{flag} is for the study itself to set; {OWN_FLAGS[flag]}")


def run(given, fixed):
    """Train, evaluate and report. given: the study's own flags; fixed: words for main.py

    Raises UserError for wrong flags, or for data without times.
    """
    flags = flags_of_models(given, fixed)
    first = next(iter(flags.values()))
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as main.py does; read when torch is loaded
    with defer_interrupts():
        from sweeps.folder import OF_ONLINE, study_folder
        from sweeps.timeline import Timeline
        from utils import keep_freed_memory, log_to_console

    keep_freed_memory()
    log_to_console()
    data = families.load_data(first.replace(mode="describe"))  # with times
    timeline = Timeline(data, given.start, given.periods)
    folder = Path(given.study_root) / (given.name or f"online-{data.name}")
    with study_folder(folder, OF_ONLINE):
        (folder / OF_ONLINE).mkdir(exist_ok=True)
        rows = []
        for name, args in flags.items():
            for seed in range(1, given.seeds + 1):
                own = args.replace(seed=seed, dataset=data.name)
                rows += Chain(timeline, name, own, given, folder).run()
        report(rows, folder, f"{folder.name}, {given.seeds} seeds")


class Chain:
    """A model with one seed through all periods, in all its ways.

    Its file holds the rows so far and the weights to go on from: no finished period is repeated.
    """

    def __init__(self, timeline, name, args, given, folder):
        """given: the study's own flags"""
        self.timeline, self.name, self.args = timeline, name, args
        self.file = folder / "chains" / f"{name},seed={args.seed}.pt"
        self.about = {"--start": given.start, "--periods": given.periods} | identity_of(args)
        self.about |= {f"--{flag} of updates": value for flag, value in UPDATE.items()}
        self.about["data"] = timeline.data.digest

    def run(self):
        """Returns a list of {column: value}, a row for each period, way and group.

        Raises UserError if its file is damaged, or of other flags, data or periods.
        """
        from checkpointing.files import save_checkpoint

        state = {"about": self.about, "rows": [], "period": 0, "first": None, "latest": None}
        if self.file.exists():
            state = self.load()
        for period in range(state["period"], self.timeline.periods):
            self.go_on(period, state)
            state["period"] = period + 1
            save_checkpoint(self.file, state, "free disk space, then run the study again")
        return state["rows"]

    def load(self):
        """The content of its file. Raises UserError, see `run`."""
        from checkpointing.files import load_checkpoint
        from checkpointing.resume import explain_mismatch

        state = load_checkpoint(self.file, ANEW)
        with explain_mismatch(self.file, ANEW):
            if "--start" not in state["about"]:
                raise UserError(f"{self.file} is of an earlier version; give another --name")
            checks.table(state["about"], "about")
            check_identity(self.file, "of a study", state["about"], self.about)
            checks.require(isinstance(state["rows"], list), "rows", "list")
            checks.require(state["period"] in range(self.timeline.periods + 1), "period", "number")
            checks.table(state["first"], "first")
            checks.table(state["latest"] or {}, "latest")
        return state

    def go_on(self, period, state):
        """Learn what is known before a period, in each way, and evaluate on it. Changes `state`."""
        from checkpointing.resume import explain_mismatch

        can_update = self.args.has("updates")
        known = self.timeline.known(period)
        trained, seconds = {}, {}
        trained["anew"], seconds["anew"] = self.train(known[0])
        if period == 0:
            state["first"] = trained["anew"].state_dict()
            trained["never"], seconds["never"] = trained["anew"], 0.0
            if can_update:
                trained["update"], seconds["update"] = trained["anew"], seconds["anew"]
        else:
            start = self.timeline.known(0)
            trained["never"], seconds["never"] = self.model(start[0], self.args), 0.0
            with explain_mismatch(self.file, ANEW):
                trained["never"].load_weights(state["first"])
            if can_update:
                before = self.timeline.known(period - 1)[0]
                trained["update"], seconds["update"] = self.update(known[0], before, state)
        if can_update:
            state["latest"] = trained["update"].state_dict()
        for way in [way for way in WAYS if way in trained]:
            places = self.timeline.known(0)[1:] if way == "never" else known[1:]
            found = self.timeline.evaluate(period, trained[way], *places)
            row = {"model": self.name, "seed": self.args.seed, "way": way, "period": period + 1}
            row["seconds"] = seconds[way]
            state["rows"] += [row | {"group": group} | values for group, values in found.items()]
            recall = found["all"]["Recall@20"]
            text = "%s, seed %d, period %d of %d, %s: Recall@20 %.4f, %.2f s"
            where = self.args.seed, period + 1, self.timeline.periods
            log.info(text, self.name, *where, way, recall, seconds[way])

    def model(self, data, args):
        """A new model."""
        from utils import choose_device

        return families.model_class(args)(data, args, choose_device(args.device))

    def train(self, data):
        """Train anew. Returns (model, seconds)."""
        begin = time.process_time()
        model = self.model(data, self.args)
        model.start_training()
        train_epochs(model, self.args)
        return model, time.process_time() - begin

    def update(self, data, before, state):
        """Go on from the latest weights, which were trained on `before`. (model, seconds)"""
        from checkpointing.resume import explain_mismatch
        from checkpointing.update import grown_state
        from sources.growth import grown

        begin = time.process_time()
        args = self.args.replace(**UPDATE)
        model = self.model(grown(before, data, self.name), args)
        with explain_mismatch(self.file, ANEW):
            model.start_training(grown_state(model, state["latest"], before))
        train_epochs(model, args)
        return model, time.process_time() - begin


def train_epochs(model, args):
    """Train a model that is ready for all epochs of its flags."""
    from train import learning_rate

    for epoch in range(1, args.epochs + 1):
        loss = model.train_epoch(learning_rate(args, epoch), lambda: None)
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} in epoch {epoch}; lower --lr ({args.lr:g})")


def report(rows, folder, title):
    """Write online.csv and online.png, and log a table.

    rows: list of {column: value}, of all chains
    folder: of the study
    title: of the figure
    """
    import pandas as pd

    from reports.figures import save_figure
    from sweeps.timeline import METRICS
    from utils import write_csv

    table = pd.DataFrame(rows)
    write_csv(folder / "online.csv", table)
    save_figure(folder / "online.png", title, panels(table), columns=table["model"].nunique())

    # The first period is that of the first training, which all ways have in common.
    later = table[table["period"] > 1] if (table["period"] > 1).any() else table
    overall = later[later["group"] == "all"]
    keys, kept = ["model", "way"], [*METRICS, "seconds"]
    by_seed = overall.groupby([*keys, "seed"], sort=False)[kept].mean()
    printed = by_seed.groupby(keys, sort=False).agg(lambda x: spread(x, 4))
    groups = later.pivot_table("Recall@20", keys, "group").drop(columns="all")
    printed = printed.join(groups.map("{:.4f}".format))
    said = "from the second period on, mean ± standard deviation of the seeds' means"
    log.info("\nMetrics in the next period, %s;", said)
    log.info("of groups: Recall@20; seconds of training before a period (on a CPU: CPU time)\n")
    log.info("%s\n", Multiline(printed.reset_index().to_string(index=False)))
    for model, part in by_seed.groupby("model", sort=False):
        if "update" in part.index.get_level_values("way"):
            update, anew = (part.xs(way, level="way").mean() for way in ("update", "anew"))
            text = "%s: an update keeps %.1f %% of Recall@20 and %.1f %% of NDCG@20, for %.1f %% %s"
            shares = (100 * update[name] / anew[name] for name in kept)
            log.info(text, model, *shares, "of the time")
    log.info("%s: online.csv, online.png", folder)


def spread(values, decimals):
    """Mean ± standard deviation as text; without the latter for one value."""
    text = f"{values.mean():.{decimals}f}"
    return text if len(values) == 1 else f"{text} ± {values.std():.{decimals}f}"


def panels(table):
    """Panels of online.png: for each model Recall@20 by period, then seconds. table: online.csv"""
    from reports.figures import Series

    quality, cost = [], []
    for model, part in table[table["group"] == "all"].groupby("model", sort=False):
        means = part.groupby(["way", "period"], sort=False)[["Recall@20", "seconds"]].mean()
        ways = list(dict.fromkeys(part["way"]))
        lines = [(way, means.loc[way]["Recall@20"].to_numpy()) for way in ways]
        quality.append(Series(lines, "period", "Recall@20", model))
        lines = [(w, means.loc[w]["seconds"].to_numpy()) for w in ways if w != "never"]
        cost.append(Series(lines, "period", "seconds of training", model))
    return quality + cost
