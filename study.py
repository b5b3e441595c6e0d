"""Studies: runs of main.py under combinations of its flags, with a table and a figure.

    python study.py --over beta=0.9,0.99 N=1,5 --seeds 3 -- --dataset 100k --epochs 200
    python study.py encoders|hyperparameters|clusters|efficiency --dataset 100k

Every run is `python main.py` in a new process, and gets all flags that are not listed here. A run that is finished is
not repeated; a study that was interrupted goes on.
"""

import argparse
import logging
import math
import os
import shlex
import sys
import textwrap
from pathlib import Path

import families
from cli.errors import UserError, defer_interrupts, status_of
from cli.flags import Flag, Parser, folder_name, whole
from sweeps.studies import NAMED, Sweep, checked

log = logging.getLogger("onebp")


# Flags of main.py that a study sets itself: what to do instead.
OWN_FLAGS = {
    "seed": "give --seeds",
    "refit": "it compares runs by the part that chooses their epochs",
    "l2_grid": "give --over l2=... and --select valid",
    **dict.fromkeys(("run_name", "log_root", "checkpoint_dir"), "give --name or --study_root"),
    **dict.fromkeys(("mode", "train_mode"), "it trains, and goes on where it stopped"),
}


def main(argv=None):
    """Run the command. Returns the exit status, like main.py's; it is 2 also if a run failed."""
    words = sys.argv[1:] if argv is None else argv
    name = words[0] if words and not words[0].startswith("-") else None
    split = words.index("--") if "--" in words else len(words)
    parser = build_parser()
    given, passed = parser.parse_known_args(words[bool(name) : split])
    if name and name not in NAMED:
        parser.error(f"there is no study {name!r}, only {', '.join(NAMED)}, or --over")
    if bool(name) == ("over" in given):
        parser.error(f"give either --over or a study: {', '.join(NAMED)}")
    given = argparse.Namespace(**{flag.name: flag.default for flag in FLAGS} | vars(given))
    return status_of("study.py", run, name, given, [*passed, *words[split + 1 :]])


def build_parser():
    """The parser of the study's own flags."""
    parser = Parser(
        prog="study.py",
        usage=f"study.py [{'|'.join(NAMED)}] [flags of the study] [--] [flags of main.py]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_flags("study", FLAGS)
    return parser


def flag_values(text):
    """A converter for --over: (flag, [value, ...])."""
    flag, _, values = text.partition("=")
    values = [value.strip() for value in values.split(",")]
    if not flag or not all(values):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a flag with its values, like beta=0.9,0.99"
        )
    return flag, values


flag_values.metavar = "FLAG=VALUE,..."


# fmt: off
FLAGS = [
    Flag("over", None, flag_values, nargs="+",
         help="flags of main.py, each with its values: beta=0.9,0.99 N=1,5"),
    Flag("seeds", None, whole(1),
         help="train with the seeds 1, 2, ... up to this one (default: 3; clusters: 1)"),
    Flag("jobs", 1, whole(1), help="runs at a time"),
    Flag("study_root", "studies", str, help="folder of the studies"),
    Flag("name", None, folder_name,
         help="name of the study's folder (default: its flags or name, and the data set)"),
]
# fmt: on


def run(name, given, fixed):
    """Check every combination, run what is not finished, write and log the results. Raises UserError if one failed."""
    study = NAMED[name](fixed) if name else Sweep(fixed, dict(given.over))
    check_flags(study, name, given)
    combinations = [(values, checked(study.fixed, values)) for values in study.combinations()]

    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as main.py does; read when torch is loaded
    with defer_interrupts():
        from sweeps.trials import collect, load_once, plan, run_all
        from utils import log_to_console

    log_to_console()
    headlines = {
        families.model_class(args.model).evaluator_class(args).headline for _, args in combinations
    }
    if len(headlines) > 1:
        raise UserError(
            "the runs have different metrics; compare models of rankings, or of ratings, and one --ranking"
        )
    (study.headline,) = headlines
    parts = {(args.select, args.valid_ratio, args.validates) for _, args in combinations}
    if len(parts) > 1 and not {"select", "valid_ratio"} & combinations[0][0].keys():
        raise UserError(
            "the runs have different training parts; give --select valid --valid_ratio 0.25, say, to all"
        )
    loaded = load_once([args for _, args in combinations])
    combinations = [(values, args) for (values, _), args in zip(combinations, loaded, strict=True)]
    args = loaded[0]
    study.prepare(args)
    parts = [name] if name else list(study.over)
    folder = Path(given.study_root) / (
        given.name or "-".join(parts + [args.dataset] * ("dataset" not in study.over))
    )
    seeds = given.seeds or study.seeds
    trials = plan(study.fixed, combinations, seeds, folder)
    log.info("%s; combinations: %d, seeds: %d", study.answers, len(combinations), seeds)
    failed = run_all(trials, given.jobs)
    runs = collect(trials)
    if len(runs):
        report(study, runs, folder, [args for _, args in combinations])
    if failed:
        first, line = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {len(trials)} runs failed, {first} with: {line}")
    study.finish(trials, folder)


def check_flags(study, name, given):
    """Raise UserError for a flag that two would set, and for runs beside each other where they must be alone."""
    if not name and len(study.over) < len(given.over):
        raise UserError("--over has a flag twice; separate its values by commas")
    for flag, advice in {**dict.fromkeys(study.over, "leave it out"), **OWN_FLAGS}.items():
        if study.given(flag) or (flag in study.over and flag in OWN_FLAGS):
            raise UserError(f"--{flag} is for the study itself to set; {advice}")
    if study.alone and given.jobs > 1:
        raise UserError(
            f"{name} takes the time of every run, so they must be alone; leave --jobs {given.jobs} out"
        )


def report(study, runs, folder, flags):
    """Write runs.csv, study.csv and study.png, and log the headline; flags: those of every combination."""
    from reports.figures import save_figure
    from sweeps.trials import summarise
    from utils import write_csv

    dataset, select = (
        " or ".join(dict.fromkeys(getattr(args, name) for args in flags))
        for name in ("dataset", "select")
    )
    table = summarise(runs, study.over)
    write_csv(folder / "runs.csv", runs)
    write_csv(folder / "study.csv", table)
    if panels := study.panels(table):
        seeds = table["n_seeds"].max()
        spread = "seed 1" if seeds == 1 else f"mean and standard deviation of {seeds} seeds"
        command = textwrap.fill(shlex.join(["python", "main.py", *study.fixed]), 100)
        save_figure(
            folder / "study.png", f"{folder.name} on {dataset}, {spread}\n{command}", panels
        )
    shown = table[list(study.over)].map(str)
    for label, measure, digits in study.shown:
        pairs = zip(table[f"{measure}_mean"], table[f"{measure}_std"], strict=True)
        shown[label] = [
            f"{mean:.{digits}f}" + f" ± {std:.{digits}f}" * (not math.isnan(std))
            for mean, std in pairs
        ]
    shown["n"] = table["n_seeds"]
    log.info("\n%s:\n\n%s\n", study.note.format(select=select), shown.to_string(index=False))
    log.info("%s: %s", folder, ", ".join(["runs.csv", "study.csv"] + ["study.png"] * bool(panels)))


if __name__ == "__main__":
    sys.exit(main())
