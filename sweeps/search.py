"""Search the values of flags that are best on the validation split, within a budget.

    python study.py search --space lr=log:1e-4:1e-1 dim=32,64 --trials 40 -- --dataset 100k

Every trial is `python main.py --select valid` in a new process, with values that Optuna chooses.
Then the best values are trained with --refit and several seeds, and only these runs show the test
split. The same command goes on with an interrupted search.
"""

import itertools
import logging
import os
import warnings
from dataclasses import replace
from pathlib import Path

import families
from cli.errors import UserError, status_of
from cli.flags import Flag, number, plain_name, whole
from cli.signals import defer_interrupts
from parse import flags_of
from sweeps.command import CommandLine
from sweeps.space import Range, space_of
from sweeps.studies import SET_BY_STUDIES, identity_of, named_flags, parse_run_flags

log = logging.getLogger("onebp")

# fmt: off
FLAGS = [
    Flag("space", None, space_of, nargs="+",
         help="flags of main.py, each with its values: lr=log:1e-4:1e-1 beta=0:1 N=int:1:20 "
              "dim=32,64"),
    Flag("trials", 40, whole(1), help="trials in all, those of earlier calls included"),
    Flag("minutes", None, number(above=0),
         help="start no trial after this time, that of earlier calls included; the trials that "
              "are running end, and the best is trained (default: no limit)"),
    Flag("warmup", 0.5, number(0, 1),
         help="share of the epochs in which no trial is stopped; after it, those are whose best "
              "evaluation is below the median of the complete trials; 1: none"),
    Flag("seed", 1, whole(0), help="seed of the suggested values, and of every trial's training"),
    Flag("seeds", 3, whole(1), help="train the best values with the seeds 1, 2, ... up to this"),
    Flag("jobs", 1, whole(1), help="trials at a time; the values repeat exactly with one only"),
    Flag("study_root", "studies", str, help="folder of the studies"),
    Flag("name", None, plain_name,
         help="name of the search's folder (default: search, its flags, and the data set)"),
]
# fmt: on

# Flags of main.py that a search sets itself, each with the advice to a user who gives it.
OWN_FLAGS = {
    "seed": "give --seed before the --",
    "refit": "it refits the best values",
    "l2_grid": "give --space l2=... instead",
    **SET_BY_STUDIES,
}


def main(words):
    """Run the command `python study.py search`. Returns the exit status.

    words: the command line's words after `search`; those after "--" are for main.py
    """
    usage = "--space FLAG=VALUES ... [flags of the search] [--] [flags of main.py]"
    parser = CommandLine("search", usage, __doc__, FLAGS)
    given, passed = parser.divide(words)
    if not given.space:
        parser.error("give --space with flags and their values, like lr=log:1e-4:1e-1")
    return status_of("study.py search", run, given, passed)


def run(given, fixed):
    """Check the space, run the trials, refit the best one, write and log the results.

    given: the search's own flags
    fixed: command-line words that all runs have

    Raises UserError for wrong flags before the first trial, if no trial succeeds, and if a refit
    fails.
    """
    space, fixed, corners = checked_space(given.space, fixed)
    load_optuna()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as main.py does; read when torch is loaded
    with defer_interrupts():
        from sweeps.folder import OF_SEARCH, study_folder
        from sweeps.search_report import report, report_refits
        from sweeps.search_trials import Search
        from sweeps.trials import load_once
        from utils import log_to_console

    log_to_console()
    evaluator = shared_evaluator(corners)
    (base,) = load_once(corners[:1])
    folder = Path(given.study_root) / (given.name or "-".join(["search", *space, base.dataset]))
    with study_folder(folder, OF_SEARCH):
        search = Search(folder, fixed, space, evaluator, given.seed)
        warmup = int(given.warmup * min(args.last_epoch for args in corners))
        search.open(identity(base, space, given.seed, given.warmup), warmup)
        search.run(given.trials, given.minutes, given.jobs)
        report_refits(search, report(search), base, given.seeds, given.jobs)


def checked_space(pairs, fixed):
    """Check that every value of the space can be trained.

    pairs: of --space, a list of (flag, Choice or Range)
    fixed: command-line words that all runs have

    Returns the space {flag: Choice or Range}, `fixed` with --select valid, and the parse.Flags of
    the space's corners: every two values of two flags (of a range: its ends), beside the first
    values of the others. Raises UserError.
    """
    space = dict(pairs)
    if len(space) < len(pairs):
        raise UserError("--space has a flag twice; separate its values by commas")
    named = named_flags(fixed)
    for flag, advice in {**dict.fromkeys(space, "leave it out"), **OWN_FLAGS}.items():
        if flag in named or (flag in space and flag in OWN_FLAGS):
            raise UserError(f"--{flag} is for the search itself to set; {advice}")

    fixed = [*fixed, *([] if "select" in named else ["--select", "valid"])]
    corners = [parse_run_flags(fixed, values) for values in corner_values(space)]
    for args in corners:
        if args.select != "valid":
            raise UserError("a search sees the validation split alone; leave --select test out")
        for flag in ("refit", "l2_grid"):  # which a file of flags may give
            if getattr(args, flag):
                raise UserError(f"--{flag} is for the search itself to set; {OWN_FLAGS[flag]}")
    for flag, values in space.items():
        declared = flags_of(corners[0].model)[flag]
        if declared.loads:
            raise UserError(f"--{flag} changes the data, and so what the trials are compared by")
        if declared.decides == "nothing":
            raise UserError(f"--{flag} has no influence on the result; give it after --")
        if isinstance(values, Range) and isinstance(getattr(corners[0], flag), int):
            space[flag] = replace(values, whole=True)
    return space, fixed, corners


def corner_values(space):
    """The corners of a space, a list of {flag: word}, see `checked_space`."""
    first = {flag: values.words[0] for flag, values in space.items()}
    found = []
    for flags in itertools.combinations(space, min(len(space), 2)):
        for words in itertools.product(*(space[flag].words for flag in flags)):
            values = first | dict(zip(flags, words, strict=True))
            if values not in found:
                found.append(values)
    return found


def shared_evaluator(corners):
    """The evaluate.Evaluator class of all trials. Raises UserError if their metrics differ."""
    found = [families.model_class(args).evaluator_class(args) for args in corners]
    if len({evaluator.monitor for evaluator in found}) > 1:
        raise UserError("the trials would be compared by different metrics; search one kind")
    return found[0]


def identity(base, space, seed, warmup):
    """All that decides the trials, {what: value}: a search goes on only if it is the same.

    base: parse.Flags of a corner, with the digest of the data
    """
    found = {f"--space {flag}": str(values) for flag, values in space.items()}
    found |= {"--seed": seed, "--warmup": warmup, "data": base.data_digest}
    return identity_of(base, space) | found


def load_optuna():
    """Import Optuna, and let it say no more than errors. Raises UserError if it is absent."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            f"study.py search needs a package ({error}): pip install 'optuna>=4'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
