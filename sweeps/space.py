"""The space of a search: the values that a trial may give to a flag. Loads without torch."""

import argparse
import math
import re
from dataclasses import dataclass

KINDS = ("log", "lin", "int")


@dataclass(frozen=True)
class Choice:
    """Some values, without an order between them.

    words: the values, as spelled
    """

    words: tuple

    def suggest(self, trial, flag):
        """The word that an optuna.Trial takes for the flag."""
        return trial.suggest_categorical(flag, self.words)

    def find(self, value, convert):
        """The word that means `value`, or None. convert: of the flag"""
        return next((word for word in self.words if convert(word) == value), None)

    def __str__(self):
        return ",".join(self.words)


@dataclass(frozen=True)
class Range:
    """The numbers from one to another, both included.

    words: the two ends, as spelled
    log: whether the logarithm of the value is drawn evenly, not the value
    whole: whether only whole numbers are drawn
    """

    words: tuple
    log: bool = False
    whole: bool = False

    @property
    def ends(self):
        """The two ends as numbers."""
        kind = int if self.whole else float
        return tuple(map(kind, self.words))

    def suggest(self, trial, flag):
        """The word that an optuna.Trial takes for the flag, rounded to six digits."""
        low, high = self.ends
        if self.whole:
            return str(trial.suggest_int(flag, low, high, log=self.log))
        value = float(f"{trial.suggest_float(flag, low, high, log=self.log):.6g}")
        return str(min(max(value, low), high))

    def find(self, value, convert):
        """`value` if it is a number of the range, else None. convert: of the flag"""
        low, high = self.ends
        return value if isinstance(value, int | float) and low <= value <= high else None

    def __str__(self):
        kind = "log" if self.log else "int" if self.whole else "lin"
        return ":".join([kind, *(f"{end:g}" for end in self.ends)])


def space_of(text):
    """A converter for --space: text -> (flag, Choice or Range).

    "dim=32,64,128" is a Choice. "lr=log:1e-4:1e-1", "beta=lin:0:1" (or "beta=0:1") and "N=int:1:20"
    are Ranges.
    """
    flag, _, values = text.partition("=")
    kind, *ends = values.split(":") if values.startswith(KINDS) else ("lin", *values.split(":"))
    words = tuple(word.strip() for word in values.split(","))
    if flag and len(ends) == 2 and all(map(_is_number, ends)) and kind in KINDS:
        return flag, _range(text, kind, tuple(ends))
    if not flag or not all(words) or values.startswith(tuple(f"{kind}:" for kind in KINDS)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a flag with its values, like lr=log:1e-4:1e-1, beta=0:1, N=int:1:20 "
            "or dim=32,64"
        )
    return flag, Choice(words)


# What --help shows in place of the words that `space_of` takes.
space_of.metavar = "FLAG=VALUES"


def _is_number(word):
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _range(text, kind, words):
    """The Range of these ends. Raises argparse.ArgumentTypeError for wrong ones."""
    low, high = map(float, words)
    if low >= high:
        problem = f"begins at {words[0]}, which is not below {words[1]}"
    elif kind == "log" and low <= 0:
        problem = "has a logarithm, so it begins above 0"
    elif kind == "int" and not all(re.fullmatch(r"[+-]?\d+", word) for word in words):
        problem = "has ends that are no whole numbers"
    else:
        return Range(words, log=kind == "log", whole=kind == "int")
    raise argparse.ArgumentTypeError(f"{text!r} {problem}")
