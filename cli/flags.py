"""Flag: what is declared of a flag. Parser: its mistakes are one line. Converters of values."""

import argparse
import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cli import launch
from cli.errors import UserError, finish_output
from cli.text import escaped

LONGEST_NAME = 230  # bytes; file systems take 255 with what is put before and behind a name


@dataclass(frozen=True)
class Flag:
    """A flag of the command line, declared once.

    name: without the dashes
    default: the value if nothing gives another
    convert: makes the value from a word; None for a switch
    help: one line for --help
    only: {choice: values}. The flag has an effect only if --choice is one of the values.
        `model` may be a choice too: then values are some of the models of the declaring family.
    needs: a trait of models (see cli.family.Model) without which the flag has no effect, or None
    decides: what depends on the value.
        training: every step. A continuation with another value is warned.
        evaluation: the scores and metrics of what is trained, and so the best epoch. A continuation
            with another value is refused; --mode evaluate, recommend and export take one.
        run: the result, but not the steps (how long, where). A continuation may change it.
        stream: only what follows the training of a model of clicks.
        nothing: no result (where files lie, what is printed).
    loads: whether it decides which data are loaded, or how they are split
    local: whether processes of one run may have different values (places on a machine)
    nargs: number of words, as in argparse
    """

    name: str
    default: object
    convert: Callable | None
    help: str
    only: dict = field(default_factory=dict)
    needs: str | None = None
    decides: Literal["training", "evaluation", "run", "stream", "nothing"] = "training"
    loads: bool = False
    local: bool = False
    nargs: str | None = None


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations. Reports a mistake in one line, with the flag probably meant."""

    def __init__(self, help_command=None, **settings):
        """help_command: the command that lists the flags, for messages; None: <program> --help"""
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **settings)
        self.help_command = help_command or f"python {self.prog} --help"

    def add_flags(self, title, flags, hidden=()):
        """Add a section of flags. hidden: names of flags that --help does not show."""
        section = self.add_argument_group(title)
        for flag in flags:
            settings = {"help": argparse.SUPPRESS if flag.name in hidden else help_of(flag)}
            if flag.convert is None:
                settings["action"] = "store_true"
            else:
                settings |= {"type": flag.convert, "nargs": flag.nargs}
                settings["metavar"] = getattr(flag.convert, "metavar", None)
            section.add_argument(f"--{flag.name}", **settings)

    def error(self, message):
        """Exit with status 2 after one line. Only the first process of a machine prints it."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            words = unknown.split() or [repr(unknown)]  # only blanks
            message = f"unrecognized arguments: {' '.join(words)}"
            close = difflib.get_close_matches(words[0], self._option_string_actions)
            message += f"; did you mean {close[0]}?" if close else ""
        message = escaped(" ".join(message.split()))
        if launch.local_rank():
            self.exit(2)
        self.exit(2, f"{self.prog}: error: {message} ({self.help_command} lists the flags)\n")

    def print_help(self, file=None):
        """See ArgumentParser, which ignores it if the text cannot be written."""
        try:
            print(self.format_help(), end="", file=file, flush=True)
        except OSError as failed:
            try:
                finish_output(failed)
            except UserError as error:
                self.error(str(error))


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the epilog; leaves the usage, which would list every flag, out."""

    def add_usage(self, usage, actions, groups, prefix=None):
        super().add_usage("%(prog)s [flags]", [], [], prefix)


def help_of(flag):
    """The help text of a flag, with its default instead of one that the text may name."""
    if flag.convert is None or flag.default is None:
        return flag.help
    default = flag.default
    if isinstance(default, list):
        default = " ".join(map(str, default)) or "none"
    return f"{re.sub(r' .default: [^)]*.$', '', flag.help)} (default: {default})"


def number(low=-math.inf, high=math.inf, above=-math.inf, kind=float):
    """A converter for a flag: a finite number of `kind` in [low, high] and greater than `above`."""
    noun = "whole number" if kind is int else "number"
    limits = (("from", low), ("above", above), ("up to", high))
    bounds = " ".join(f"{word} {limit}" for word, limit in limits if math.isfinite(limit))

    def convert(text):
        try:
            value = kind(text)
            finite = math.isfinite(value)
        except (ValueError, OverflowError):
            finite = False
        if not (finite and low <= value <= high and value > above):
            raise argparse.ArgumentTypeError(f"{text!r} is not a {noun} {bounds}".rstrip())
        return value

    convert.metavar = "N" if kind is int else "X"
    return convert


def whole(low):
    """A converter for a flag: an integer from `low` to what 31 bits hold."""
    return number(low, 2**31 - 1, kind=int)


def or_auto(kind):
    """A converter for a flag: what `kind` takes, or auto: the model chooses on validation data.

    kind: a converter. See recommender.Recommender.chosen_flags.
    """

    def convert(text):
        if text.lower() == "auto":
            return "auto"
        try:
            return kind(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, or auto") from None

    convert.metavar, convert.takes_auto = f"{kind.metavar}|auto", True
    return convert


positive = number(above=0)
# A share of the data to test or validate on: a larger one would leave too little to train on.
share = number(above=0, high=0.9)


def one_of(*choices, **aliases):
    """A converter for a flag: one of `choices`, in any case; `aliases` are other spellings."""
    known = {choice.lower(): choice for choice in choices} | aliases

    def convert(text):
        if text.lower() not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return known[text.lower()]

    convert.choices, convert.metavar = choices, "|".join(choices)
    return convert


def text(word):
    """A converter for a flag: any text that is not empty."""
    if not word:
        raise argparse.ArgumentTypeError("it is empty")
    return word


text.metavar = "TEXT"


def moment(text):
    """A converter for a flag: a date, with or without a time of day, or a number."""
    if re.fullmatch(r"(19|20)\d{6}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} may be a date or a number: write {text[:4]}-{text[4:6]}-{text[6:]} "
            f"or {text}.0"
        )
    if not re.fullmatch(r"[-+]?\d+(\.\d+)?", text):
        try:
            datetime.fromisoformat(text)
        except ValueError:
            wrong = f"{text!r} is no date as 2003-01-31 or 2003-01-31T18:00:00, and no number"
            raise argparse.ArgumentTypeError(wrong) from None
    return text


moment.metavar = "DATE"


def plain_name(text):
    """A converter for a flag: the name of one file or folder, not a path."""
    if not text or text.startswith(".") or not text.isprintable() or set(text) & set("/\\"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain name for a file or folder")
    if len(text.encode()) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"{text!r} has over {LONGEST_NAME} bytes; shorten it")
    return text


plain_name.metavar = "NAME"
