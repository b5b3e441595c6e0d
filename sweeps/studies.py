"""What a study runs and shows: a sweep over given values of flags, and the paper's studies by name."""

import io
import itertools
from contextlib import redirect_stderr

from cli.errors import UserError
from cli.registry import ENCODERS
from families.two_tower import PRESETS
from parse import parse_args


class Sweep:
    """All combinations of the values that --over gives; base of the studies by name."""

    answers = "a sweep"  # or to which claim or study of the paper
    seeds = 3
    note = "Test metrics, mean ± standard deviation of n seeds; the best epoch was chosen on the {select} part"
    alone = False  # whether runs beside each other would falsify it

    def __init__(self, fixed, over):
        """fixed: the words of the command line for every run; over: {flag: values}."""
        self.fixed, self.over = list(fixed), over
        self.headline = ()  # the metrics to show, set by study.run

    @property
    def shown(self):
        """Of the printed table: [(label, measure, digits)]."""
        moments = ("best", "last")
        return [
            (f"{metric}, {moment}", f"{moment}_{metric}", 4)
            for metric in self.headline
            for moment in moments
        ]

    def combinations(self):
        """The values of the swept flags, {flag: value} for each combination."""
        return [
            dict(zip(self.over, values, strict=True))
            for values in itertools.product(*self.over.values())
        ]

    def prepare(self, args):
        """Called before the first run, with the flags of one. Raises UserError where something else is missing."""

    def panels(self, table):
        """The panels of study.png, from study.csv."""
        from reports.figures import Bars, Lines

        first, *others = self.over
        if not others:
            moments = ("best", "last")
            lines = [
                [(f"{moment} epoch", table, f"{moment}_{metric}") for moment in moments]
                for metric in self.headline
            ]
            return [Lines(first, *panel) for panel in zip(lines, self.headline, strict=True)]
        if len(others) == 1:
            return self.compared(
                table, {f"{metric}, best epoch": f"best_{metric}" for metric in self.headline}
            )
        labels = table[list(self.over)].astype(str).agg(", ".join, axis=1).tolist()
        flags = ", ".join(f"--{flag}" for flag in self.over)
        return [
            Bars(labels, flags, table, f"best_{metric}", f"{metric}, best epoch")
            for metric in self.headline
        ]

    def compared(self, table, measures):
        """A panel for each of {label: measure}: against the first swept flag, a line for each value of the second."""
        from reports.figures import Lines

        first, second = self.over
        parts = list(table.groupby(second, sort=False))
        return [
            Lines(first, [(f"{second} {value}", rows, measure) for value, rows in parts], label)
            for label, measure in measures.items()
        ]

    def finish(self, trials, folder):
        """Called when all runs went well: writes and logs what they have besides their metrics."""

    def given(self, *flags):
        """Whether the words for every run name one of the flags."""
        return not {f"--{flag}" for flag in flags}.isdisjoint(
            word.split("=")[0] for word in self.fixed
        )


class Encoders(Sweep):
    """Both update rules on every encoder."""

    answers = "on the paper's claim that OneBP recommends better than two backpropagations"

    def __init__(self, fixed):
        super().__init__(fixed, {"encoder": list(ENCODERS), "model": ["OneBP", "TwoBP"]})


class Hyperparameters(Sweep):
    """N and beta, one at a time, around their suggested values; with quick training where there is a preset for it."""

    answers = "on the paper's study of N, the negatives, and of beta, the share of a user's encoding that stays in a move"

    def __init__(self, fixed):
        super().__init__(fixed, {"N": [1, 5, 10, 20, 40], "beta": [0.5, 0.9, 0.99, 0.999]})
        args = checked(self.fixed, {})
        self.suggested = {flag: getattr(args, flag) for flag in self.over}
        fast = PRESETS["fast"].get(args.dataset, ())
        if fast and not self.given("preset", "lr_dc", "lr_dc_epoch", *fast):
            self.fixed += ["--preset", "fast"]

    def combinations(self):
        moved = [
            self.suggested | {flag: value} for flag, values in self.over.items() for value in values
        ]
        return [values for number, values in enumerate(moved) if values not in moved[:number]]

    def panels(self, table):
        from reports.figures import Lines

        panels = []
        for flag, other in itertools.permutations(self.over):
            rows = table[table[other] == self.suggested[other]]
            lines = [(metric, rows, f"best_{metric}") for metric in self.headline]
            panels.append(
                Lines(flag, lines, f"best epoch's metric, {other} {self.suggested[other]}")
            )
        return panels


class Clusters(Sweep):
    """How well the items' encodings tell their genres."""

    answers = "on the authors' claim that OneBP tells most genres better apart (class.png in their repository)"
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
        return []  # its figure shows encodings, see finish

    def finish(self, trials, folder):
        from sweeps.genres import study_genres

        study_genres(trials, self.data, self.genres, folder)


class Efficiency(Sweep):
    """Seconds and memory of both update rules by dim."""

    answers = "on the paper's claim that OneBP needs less computation than two backpropagations"
    shown = (("seconds per epoch", "epoch_seconds", 4), ("peak memory, MB", "peak_memory_mb", 0))
    note = "Mean ± standard deviation of n seeds; an epoch of training alone, memory of the whole process"
    alone = True

    def __init__(self, fixed):
        super().__init__(fixed, {"dim": [32, 64, 128, 256, 512, 1024], "model": ["OneBP", "TwoBP"]})
        for flag, value in {"epochs": "6", "compile": "off"}.items():
            self.fixed += [] if self.given(flag) else [f"--{flag}", value]

    def panels(self, table):
        return self.compared(table, {label: measure for label, measure, _ in self.shown})


NAMED = {
    "encoders": Encoders,
    "hyperparameters": Hyperparameters,
    "clusters": Clusters,
    "efficiency": Efficiency,
}


def checked(fixed, values):
    """The flags (see parse.py) of `python main.py <fixed> <values>`. Raises UserError, with the values, if wrong."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return parse_args([*fixed, *as_words(values)])
    except SystemExit as exit:
        if not exit.code:  # --help
            raise
        mistake = said.getvalue().strip().removeprefix("main.py: error: ")
        raise UserError(f"{describe(values)}: {mistake}" if values else mistake) from None


def as_words(values):
    """{flag: value} as words of a command line; a text may hold several values of its flag, separated by spaces."""
    return [word for flag, value in values.items() for word in (f"--{flag}", *str(value).split())]


def describe(values, separator=" "):
    """{flag: value} as --over has them."""
    return separator.join(f"{flag}={value}" for flag, value in values.items())
