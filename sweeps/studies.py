"""Which runs a study compares, and what it shows: sweeps over flags, and the paper's studies."""

import io
import itertools
import re
from contextlib import redirect_stderr

from cli.errors import UserError
from cli.registry import ENCODERS
from families.two_tower import PRESETS
from parse import flags_of, parse_args

# Flags beside those of a preset that say how to train.
HOW_TO_TRAIN = ("preset", "lr_dc", "lr_dc_epoch", "config", "like")


class Sweep:
    """All combinations of the values that --over gives; base class of the studies by name."""

    purpose = "a sweep"  # what the first log line says: the claim that a study by name examines
    seeds = 3  # default of --seeds
    # Title of the printed table.
    caption = (
        "Test metrics, mean ± standard deviation of n seeds; "
        "the best epoch was chosen on the {select} split"
    )
    one_at_a_time = False  # whether runs side by side would falsify what is measured

    def __init__(self, fixed, over):
        """fixed: command-line words that all runs have; over: {swept flag: its values}"""
        self.fixed, self.over = with_folder_of_like(fixed), over
        self.headline = ()  # names of the metrics to show, set by study.run

    @property
    def printed(self):
        """Columns of the printed table: [(label, measure in study.csv, decimals)]."""
        return [
            (f"{metric}, {moment}", f"{moment}_{metric}", 4)
            for metric in self.headline
            for moment in ("best", "last")
        ]

    def combinations(self):
        """Values of the swept flags: a list of {flag: value}."""
        return [
            dict(zip(self.over, values, strict=True))
            for values in itertools.product(*self.over.values())
        ]

    def prepare(self, args):
        """Check before the first run that nothing is missing; raises UserError. args: of a run"""

    def panels(self, table):
        """Panels of study.png, a list; see reports.figures. table: content of study.csv"""
        from reports.figures import Bars, Lines

        first, *others = self.over

        # One swept flag: a panel per metric, with a line for the best and one for the last epoch.
        if not others:
            panels = []
            for metric in self.headline:
                moments = ("best", "last")
                lines = [(f"{moment} epoch", table, f"{moment}_{metric}") for moment in moments]
                panels.append(Lines(first, lines, metric))
            return panels

        # Two: a panel per metric, with a line per value of the second.
        if len(others) == 1:
            measures = {f"{metric}, best epoch": f"best_{metric}" for metric in self.headline}
            return self.line_panels(table, measures)

        # More: a panel per metric, with a bar per combination.
        labels = table[list(self.over)].astype(str).agg(", ".join, axis=1).tolist()
        flags = ", ".join(f"--{flag}" for flag in self.over)
        return [
            Bars(labels, flags, table, f"best_{metric}", f"{metric}, best epoch")
            for metric in self.headline
        ]

    def line_panels(self, table, measures):
        """A panel per measure against the first swept flag, with a line per value of the second.

        table: content of study.csv
        measures: {label of the panel: measure in study.csv}
        """
        from reports.figures import Lines

        first, second = self.over
        groups = list(table.groupby(second, sort=False))
        return [
            Lines(first, [(f"{second} {value}", rows, measure) for value, rows in groups], label)
            for label, measure in measures.items()
        ]

    def finish(self, trials, folder):
        """Write and log further results of the finished runs, after all went well.

        trials: list of trials.Trial
        folder: of the study
        """

    def fixes(self, *flags):
        """Whether the words that all runs have name one of these flags."""
        return bool(named_flags(self.fixed) & {*flags})


class Encoders(Sweep):
    """Both update rules on every encoder."""

    purpose = "on the paper's claim that OneBP recommends better than two backpropagations"

    def __init__(self, fixed):
        super().__init__(fixed, {"encoder": list(ENCODERS), "model": ["OneBP", "TwoBP"]})


class Hyperparameters(Sweep):
    """N and beta, one at a time, around their suggested values.

    Uses the preset `cosine` if the data set has one and no flag of it is given.
    """

    purpose = (
        "on the paper's study of N, the negatives, and of beta, "
        "the share of a user's encoding that stays in a move"
    )

    def __init__(self, fixed):
        super().__init__(fixed, {"N": [1, 5, 10, 20, 40], "beta": [0.5, 0.9, 0.99, 0.999]})
        args = parse_run_flags(self.fixed, {})
        self.suggested = {flag: getattr(args, flag) for flag in self.over}
        preset = PRESETS["cosine"].get(args.dataset, ())
        if preset and not self.fixes(*HOW_TO_TRAIN, *preset):
            self.fixed += ["--preset", "cosine"]

    def combinations(self):
        all_values = [
            self.suggested | {flag: value} for flag, values in self.over.items() for value in values
        ]
        # The suggested combination occurs once for each flag: keep the first.
        return [values for i, values in enumerate(all_values) if values not in all_values[:i]]

    def panels(self, table):
        """A panel per flag, while the other has its suggested value; a line per metric."""
        from reports.figures import Lines

        panels = []
        for flag, other in itertools.permutations(self.over):
            rows = table[table[other] == self.suggested[other]]
            lines = [(metric, rows, f"best_{metric}") for metric in self.headline]
            label = f"best epoch's metric, {other} {self.suggested[other]}"
            panels.append(Lines(flag, lines, label))
        return panels


class Clusters(Sweep):
    """Whether the encodings of items reflect their genres, see genres.py."""

    purpose = (
        "on the authors' claim that OneBP tells most genres better apart "
        "(class.png in their repository)"
    )
    seeds = 1

    def __init__(self, fixed):
        super().__init__(fixed, {"model": ["OneBP", "TwoBP"]})

    def prepare(self, args):
        from families import load_data
        from sweeps.genres import item_genres

        if args.dim < 2:
            raise UserError("clusters draws encodings in two dimensions; give --dim 2 or more")
        self.data = load_data(args)
        self.genres = item_genres(self.data, args.data_dir)

    def panels(self, table):
        return []  # `finish` draws the encodings instead

    def finish(self, trials, folder):
        from sweeps.genres import study_genres

        study_genres(trials, self.data, self.genres, folder)


class Efficiency(Sweep):
    """Seconds and memory of both update rules by dim."""

    purpose = "on the paper's claim that OneBP needs less computation than two backpropagations"
    printed = (("seconds per epoch", "epoch_seconds", 4), ("peak memory, MB", "peak_memory_mb", 0))
    caption = (
        "Mean ± standard deviation of n seeds; an epoch of training alone, "
        "memory of the whole process"
    )
    one_at_a_time = True

    def __init__(self, fixed):
        super().__init__(fixed, {"dim": [32, 64, 128, 256, 512, 1024], "model": ["OneBP", "TwoBP"]})
        for flag, value in {"epochs": "6", "compile": "off"}.items():
            self.fixed += [] if self.fixes(flag) else [f"--{flag}", value]

    def panels(self, table):
        return self.line_panels(table, {label: measure for label, measure, _ in self.printed})


# The models of `study.py online`, with flags that suit data of the size of ml-100k and ml-1m.
_STEPS = {"lr": 5e-3, "lr_schedule": "cosine", "epochs": 30}
ONLINE = {
    "OneBP": {"model": "OneBP", **_STEPS},
    "OneBP-all": {"model": "OneBP", "loss": "ELSA"},
    "TwoBP": {"model": "TwoBP", **_STEPS, "epochs": 20},
    "EASE": {"model": "EASE"},
}
# Flags of main.py that every study sets itself, each with the advice to a user who gives it.
SET_BY_STUDIES = {
    **dict.fromkeys(("run_name", "log_root", "checkpoint_dir"), "give --name or --study_root"),
    **dict.fromkeys(("mode", "train_mode"), "it trains, and goes on where it stopped"),
}
NAMED = {
    "encoders": Encoders,
    "hyperparameters": Hyperparameters,
    "clusters": Clusters,
    "efficiency": Efficiency,
}


def with_folder_of_like(words):
    """Words of a command line, in which --like names a folder: runs of a study lie elsewhere."""
    root = flags_of("OneBP")["log_root"].default
    words = [part for word in words for part in re.split(r"(?<=^--like)=", word)]
    return [
        f"{root}/{word}" if before == "--like" and "/" not in word else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def named_flags(words):
    """Names of the flags among the words of a command line."""
    return {word.split("=")[0].removeprefix("--") for word in words if word.startswith("--")}


def identity_of(args, without=()):
    """{"--flag": value} of all flags that decide the result of a run, and have an effect.

    args: parse.Flags; without: names of flags to leave out
    """
    flags = args.deciding("training", "evaluation", "run")
    kept = flags.keys() - args.ignored() - {*without}
    return {f"--{flag}": flags[flag] for flag in sorted(kept) if flags[flag] is not None}


def check_identity(folder, kind, before, now):
    """Raise UserError if what a study's folder holds was made by other flags, data or periods.

    kind: of the study, in words; before, now: {what: value}
    """
    if before != now:
        what = next(w for w in before | now if before.get(w) != now.get(w))
        then, wanted = (str(found.get(what, "absent"))[:60] for found in (before, now))
        raise UserError(
            f"{folder} is {kind} with {what} {then}, not {wanted}; give what it had, or another "
            "--name"
        )


def parse_run_flags(fixed, swept):
    """The parse.Flags of `python main.py` with these flags.

    fixed: command-line words that all runs have
    swept: {flag: value} of one combination

    Raises UserError if a flag is wrong; its text begins with the combination.
    """
    stderr = io.StringIO()
    try:
        with redirect_stderr(stderr):
            return parse_args([*fixed, *as_words(swept)])
    except SystemExit as exit:
        if not exit.code:  # --help
            raise
        mistake = stderr.getvalue().strip().removeprefix("main.py: error: ")
        raise UserError(f"{describe(swept)}: {mistake}" if swept else mistake) from None


def as_words(values):
    """Command-line words of {flag: value}. A text with spaces gives its flag several values."""
    return [word for flag, value in values.items() for word in (f"--{flag}", *str(value).split())]


def describe(values, separator=" "):
    """{flag: value} as text, like "N=5 beta=0.9"."""
    return separator.join(f"{flag}={value}" for flag, value in values.items())
