"""What a search leaves: trials.csv, search.png, the winner's flags, and the runs of its refits."""

import logging
import shlex
import textwrap
import warnings
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState

from cli import config
from cli.errors import UserError
from parse import serves
from reports.figures import STYLES, Bars, save_figure
from sweeps.studies import as_words, describe, parse_run_flags
from sweeps.trials import Refit, Trial, collect, plan, run_all
from utils import atomic_file, write_csv

log = logging.getLogger("onebp")

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def trials_table(search):
    """Content of trials.csv, a row per trial that has begun.

    Columns: number, state, the flags, the metric of the best epoch on the validation split,
    best_epoch, epochs (the last one that counts), seconds of training and evaluation, error.
    """
    rows = []
    for trial in search.trials(*STATES):
        best_epoch, value = best_of(search, trial)
        words, attributes = trial.user_attrs.get("words", {}), trial.user_attrs
        rows.append(
            {"number": trial.number, "state": STATES[trial.state]}
            | {flag: words.get(flag) for flag in search.space}
            | {f"valid_{search.metric}": value, "best_epoch": best_epoch}
            | {"epochs": trial.last_step, "seconds": attributes.get("seconds")}
            | {"error": attributes.get("error")}
        )
    return pd.DataFrame(rows).astype({"best_epoch": "Int64", "epochs": "Int64"})


def best_of(search, trial):
    """(epoch, metric) of a trial's best evaluation, the first of equal ones; None without any."""
    sign = 1 if search.evaluator.larger_is_better else -1
    values = trial.intermediate_values
    epoch = max(sorted(values), key=lambda epoch: sign * values[epoch], default=None)
    return epoch, values.get(epoch)


def write_trials(search):
    """Write trials.csv."""
    write_csv(search.folder / "trials.csv", trials_table(search))


def describe_end(search, trial):
    """A line on how a trial ended."""
    epoch, value = best_of(search, trial)
    end = {
        TrialState.COMPLETE: "",
        TrialState.PRUNED: f", stopped after epoch {trial.last_step}",
        TrialState.FAIL: f"failed: {trial.user_attrs.get('error')}",
    }[trial.state]
    quality = (
        "" if trial.state == TrialState.FAIL else f"{search.metric} {value:.4f} in epoch {epoch}"
    )
    return f"trial {trial.number}  {quality}{end}  {describe(trial.user_attrs['words'])}"


@dataclass
class Course:
    """A panel: the metric of every trial by its number, and the best so far.

    table: of `trials_table`
    metric: column of the table
    larger_is_better: whether the best is the largest
    """

    table: pd.DataFrame
    metric: str
    larger_is_better: bool

    height = 4  # inches

    def draw(self, axes):
        """Draw into Matplotlib axes. A trial that failed has a mark on the lower edge."""
        from matplotlib.ticker import MaxNLocator

        for state, (_, marker) in zip(("complete", "pruned"), STYLES, strict=False):
            rows = self.table[self.table["state"] == state]
            axes.plot(rows["number"], rows[self.metric], marker, markersize=5, label=state)
        failed = self.table.loc[self.table["state"] == "failed", "number"]
        edge = axes.get_xaxis_transform()  # y from 0 to 1
        if len(failed):
            axes.plot(failed, np.full(len(failed), 0.02), "kx", transform=edge, label="failed")
        values = self.table[self.metric].where(self.table["state"] == "complete")
        best = (values.cummax() if self.larger_is_better else values.cummin()).ffill()
        axes.step(self.table["number"], best, where="post", label="best so far")
        axes.set(xlabel="trial", ylabel=self.metric.replace("valid_", "") + ", validation split")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()


def report(search):
    """Write trials.csv, search.png and flags.toml, and log the winner. Returns the best trial.

    Raises UserError if no trial is complete.
    """
    write_trials(search)
    table, best = trials_table(search), search.best()
    if best is None:
        failed = search.trials(TrialState.FAIL)
        why = f"; the first failed with: {failed[0].user_attrs['error']}" if failed else ""
        raise UserError(f"none of the {len(table)} trials is complete{why}")
    metric = f"valid_{search.metric}"
    panels = [Course(table, metric, search.evaluator.larger_is_better), *importance(search.study)]
    title = textwrap.fill(shlex.join(["python", "main.py", *search.fixed]), 100)
    save_figure(search.folder / "search.png", f"{search.folder.name}\n{title}", panels)

    # The winner.
    counts = table["state"].value_counts()
    numbers = ", ".join(f"{count} {state}" for state, count in counts.items())
    epoch, value = best_of(search, best)
    command = write_winner(search, best)
    log.info(
        "\n%d trials: %s\n\nbest on the validation split: trial %d, %s %.4f in epoch %d\n%s",
        len(table), numbers, best.number, search.metric, value, epoch, command,
    )  # fmt: skip
    return best


def write_winner(search, best):
    """Write flags.toml, which repeats the best trial by --config. Returns that trial's command."""
    words = [*search.fixed, *as_words(best.user_attrs["words"]), "--seed", str(search.seed)]
    title = f"The best of the trials in {search.folder}: trial {best.number}"
    with atomic_file(search.folder / config.NAME, "w", encoding="utf-8") as file:
        file.write(config.as_toml(title, parse_run_flags(words, {}).repeating()))
    return shlex.join(["python", "main.py", *words])


def importance(study):
    """The panel of each flag's share in the metric's variance, or none if it cannot be told.

    PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255): how much the values of the better
    trials differ from those of all complete ones. The shares sum to 1.
    """
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError, UserWarning):  # too few complete trials, or all alike
        return []
    if not sum(shares.values()) > 0:
        return []
    table = pd.DataFrame({"share_mean": list(shares.values()), "share_std": 0.0})
    return [Bars([f"--{flag}" for flag in shares], "", table, "share", "importance (PED-ANOVA)")]


def report_refits(search, best, base, seeds, jobs):
    """Train the best values with several seeds, and log their test metrics; write runs.csv.

    best: optuna.trial.FrozenTrial
    base: parse.Flags with the name and the digest of the data
    seeds, jobs: how many seeds, from 1, and how many runs at a time

    With --refit, if the model has it. Raises UserError if a run fails.
    """
    values = best.user_attrs["words"]
    can_refit = serves("refit", base.model)
    fixed = [*search.fixed, *(["--refit"] if can_refit else [])]
    args = parse_run_flags(fixed, values).replace(
        dataset=base.dataset, data_digest=base.data_digest
    )
    runs = plan(fixed, [(values, args)], seeds, search.folder, Refit if can_refit else Trial)
    trained = "training and validation split" if can_refit else "the training split"
    log.info("\nthe best values, trained on %s; seeds: %d", trained, seeds)
    if failed := run_all(runs, jobs):
        first, line = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {seeds} runs failed, {first} with: {line}")
    table = collect(runs)
    write_csv(search.folder / "runs.csv", table)
    for metric in search.evaluator.headline:
        found = table[f"best_{metric}"]
        spread = f" ± {found.std():.4f}" if seeds > 1 else ""
        log.info("test %s %.4f%s, seeds: %d", metric, found.mean(), spread, seeds)
    log.info("%s: trials.csv, search.png, flags.toml, runs.csv", search.folder)
