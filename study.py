"""Compare runs of main.py under combinations of its flags, in a table and a figure.

    python study.py --over beta=0.9,0.99 N=1,5 --seeds 3 -- --dataset 100k --epochs 200
    python study.py encoders|hyperparameters|clusters|efficiency --dataset 100k

Every run is `python main.py` in a new process, and gets all other flags.
A finished run is not repeated; an interrupted study goes on.

Commands with flags of their own; each has its own --help:

    python study.py search --space ...     find good values of flags within a budget
    python study.py online --periods 10    train, then go on with new data, period after period
    python study.py compare RUN RUN ...    differences, with intervals over users and tests
    python study.py table RUN RUN ...      flags and metrics of many runs, sorted
"""

import argparse
import importlib
import logging
import math
import os
import shlex
import sys
import textwrap
from pathlib import Path

from cli.signals import defer_interrupts, end_silently

if __name__ == "__main__":
    end_silently()

import families
from cli.errors import UserError, status_of
from cli.flags import Flag, plain_name, whole
from cli.text import Multiline
from sweeps.command import CommandLine
from sweeps.studies import NAMED, SET_BY_STUDIES, Sweep, parse_run_flags

log = logging.getLogger("onebp")

# Modules of commands with flags of their own; each has FLAGS, and main(words) -> exit status.
COMMANDS = {
    "search": "sweeps.search",
    "compare": "sweeps.compare",
    "table": "sweeps.table",
    "online": "sweeps.online",
}
USAGE = (
    f"[{'|'.join(NAMED)}] [flags of the study] [--] [flags of main.py]\n"
    f"       study.py {'|'.join(COMMANDS)} ..."
)
# Flags of main.py that a study sets itself, each with the advice to a user who gives it.
OWN_FLAGS = {
    "seed": "give --seeds",
    "refit": "it compares runs by the split that chooses their epochs",
    "l2_grid": "give --over l2=... and --select valid",
    **SET_BY_STUDIES,
}


def main(argv=None):
    """Run the command. Returns the exit status: that of main.py, or 2 if a run failed.

    argv: the command line's words, by default those of this process
    """
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        return importlib.import_module(COMMANDS[words[0]]).main(words[1:])

    # The first word may name a study. Words after "--" are for main.py.
    name = words[0] if words and not words[0].startswith("-") else None
    parser = CommandLine("", USAGE, __doc__, FLAGS)
    given, passed = parser.divide(words[1:] if name else words)
    if name and name not in NAMED:
        known = ", ".join([*NAMED, *COMMANDS])
        parser.error(f"there is no study {name!r}, only {known}, or --over")
    if bool(name) == bool(given.over):
        parser.error(f"give either --over or a study: {', '.join(NAMED)}")
    return status_of("study.py", run, name, given, passed)


def flag_values(text):
    """A converter for --over: "N=1,5" -> ("N", ["1", "5"])."""
    flag, _, values = text.partition("=")
    values = [value.strip() for value in values.split(",")]
    if not flag or not all(values):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a flag with its values, like beta=0.9,0.99"
        )
    return flag, values


# What --help shows in place of the words that `flag_values` takes.
flag_values.metavar = "FLAG=VALUE,..."


# fmt: off
FLAGS = [
    Flag("over", None, flag_values, nargs="+",
         help="flags of main.py, each with its values: beta=0.9,0.99 N=1,5"),
    Flag("seeds", None, whole(1),
         help="train with the seeds 1, 2, ... up to this one (default: 3; clusters: 1)"),
    Flag("jobs", 1, whole(1), help="runs at a time"),
    Flag("study_root", "studies", str, help="folder of the studies"),
    Flag("name", None, plain_name,
         help="name of the study's folder (default: its flags or name, and the data set)"),
]
# fmt: on


def run(name, given, fixed):
    """Check all combinations, run those that are not finished, write and log the results.

    name: of the study, or None for --over
    given: the study's own flags
    fixed: command-line words that all runs have

    Raises UserError for wrong flags before the first run, and at the end if a run failed.
    """
    study = NAMED[name](fixed) if name else Sweep(fixed, dict(given.over))
    check_flags(study, name, given)
    combinations = [(swept, parse_run_flags(study.fixed, swept)) for swept in study.combinations()]
    for flag in ("refit", "l2_grid"):  # which a file of flags may give
        if any(getattr(args, flag) for _, args in combinations):
            raise UserError(f"--{flag} is for the study itself to set; {OWN_FLAGS[flag]}")

    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as main.py does; read when torch is loaded
    with defer_interrupts():
        from sweeps.folder import OF_STUDY, study_folder
        from sweeps.trials import collect, load_once, plan, run_all
        from utils import log_to_console

    log_to_console()
    study.headline = shared_headline([args for _, args in combinations])
    check_training_splits(combinations)

    # Load the data once, for the names of data sets and their digests.
    flags = load_once([args for _, args in combinations])
    combinations = [(swept, args) for (swept, _), args in zip(combinations, flags, strict=True)]
    study.prepare(flags[0])

    # Name the folder.
    words = [name] if name else list(study.over)
    words += [] if "dataset" in study.over else [flags[0].dataset]
    folder = Path(given.study_root) / (given.name or "-".join(words))

    # Run, and report on all runs that went well before failing for the others.
    seeds = given.seeds or study.seeds
    trials = plan(study.fixed, combinations, seeds, folder)
    log.info("%s; combinations: %d, seeds: %d", study.purpose, len(combinations), seeds)
    with study_folder(folder, OF_STUDY):
        failed = run_all(trials, given.jobs)
        runs = collect(trials)
        if len(runs):
            report(study, trials, runs, folder, flags)
        if failed:
            first, line = next(iter(failed.items()))
            raise UserError(f"{len(failed)} of {len(trials)} runs failed, {first} with: {line}")
        study.finish(trials, folder)


def check_flags(study, name, given):
    """Raise UserError for a flag that is set twice, and for --jobs if runs must be alone.

    study: Sweep; name: of the study, or None for --over; given: the study's own flags
    """
    if not name and len(study.over) < len(given.over):
        raise UserError("--over has a flag twice; separate its values by commas")
    for flag, advice in {**dict.fromkeys(study.over, "leave it out"), **OWN_FLAGS}.items():
        if study.fixes(flag) or (flag in study.over and flag in OWN_FLAGS):
            raise UserError(f"--{flag} is for the study itself to set; {advice}")
    if study.one_at_a_time and given.jobs > 1:
        raise UserError(
            f"{name} measures the time of every run, so runs must be alone; "
            f"leave --jobs {given.jobs} out"
        )


def shared_headline(flags):
    """Names of the metrics to show, from the parse.Flags of all combinations.

    Raises UserError if they differ between runs.
    """
    headlines = {families.model_class(a).evaluator_class(a).headline for a in flags}
    if len(headlines) > 1:
        raise UserError(
            "the runs have different metrics; compare models of rankings, or of ratings, "
            "and one --ranking"
        )
    return headlines.pop()


def check_training_splits(combinations):
    """Raise UserError if runs train on different splits, unless the study sweeps over the split.

    combinations: list of ({swept flag: value}, parse.Flags)
    """
    splits = {(args.select, args.valid_ratio, args.validates) for _, args in combinations}
    if len(splits) > 1 and not {"select", "valid_ratio"} & combinations[0][0].keys():
        raise UserError(
            "the runs have different training splits; "
            "give --select valid --valid_ratio 0.25, say, to all"
        )


def report(study, trials, runs, folder, flags):
    """Write runs.csv, study.csv and study.png, and log the table.

    study: Sweep
    trials: list of trials.Trial
    runs: content of runs.csv
    folder: of the study
    flags: parse.Flags of each combination
    """
    from reports.figures import save_figure
    from sweeps.intervals import add_intervals
    from sweeps.trials import summarise
    from utils import write_csv

    table = summarise(runs, study.over)
    add_intervals(table, trials)
    write_csv(folder / "runs.csv", runs)
    write_csv(folder / "study.csv", table)
    files = ["runs.csv", "study.csv"]

    # The figure.
    if panels := study.panels(table):
        datasets = " or ".join(dict.fromkeys(args.dataset for args in flags))
        seeds = table["n_seeds"].max()
        spread = "seed 1" if seeds == 1 else f"mean and standard deviation of {seeds} seeds"
        command = textwrap.fill(shlex.join(["python", "main.py", *study.fixed]), 100)
        title = f"{folder.name} on {datasets}, {spread}\n{command}"
        save_figure(folder / "study.png", title, panels)
        files.append("study.png")

    # The printed table: mean ± standard deviation, without the latter for one seed; the interval.
    printed = table[list(study.over)].map(str)
    for label, measure, decimals in study.printed:
        pairs = zip(table[f"{measure}_mean"], table[f"{measure}_std"], strict=True)
        printed[label] = [
            f"{mean:.{decimals}f}" + f" ± {std:.{decimals}f}" * (not math.isnan(std))
            for mean, std in pairs
        ]
        if f"{measure}_low" in table:
            ends = zip(table[f"{measure}_low"], table[f"{measure}_high"], strict=True)
            printed[f"{label}, 95 %"] = [
                "" if math.isnan(low) else f"{low:.4f} to {high:.4f}" for low, high in ends
            ]
    printed["n"] = table["n_seeds"]
    selects = " or ".join(dict.fromkeys(args.select for args in flags))
    caption = study.caption.format(select=selects)
    log.info("\n%s:\n\n%s\n", caption, Multiline(printed.to_string(index=False)))
    if any(label.endswith("95 %") for label in printed):
        log.info(
            "95 %%: interval over users of a combination alone. Two that overlap may still differ: "
            "python study.py compare %s tests the differences",
            shlex.quote(str(folder)),
        )
    log.info("%s: %s", folder, ", ".join(files))


if __name__ == "__main__":
    sys.exit(main())
