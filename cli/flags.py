"""A parser of flags whose mistakes are one line, and the converters of their values."""

import argparse
import difflib
import math

from cli import launch


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations; reports a mistake in one line, with the flag that was probably meant."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **settings)
        self.defaults = {}

    def start_group(self, title):
        self.group = self.add_argument_group(title)

    def add_flag(self, name, default, convert, help, **settings):
        """Add `--name` to the group; `convert` makes its value from a word, None makes it a switch."""
        self.defaults[name] = default
        if convert is None:
            settings["action"] = "store_true"
        else:
            settings |= {"type": convert, "metavar": getattr(convert, "metavar", None)}
            if default is not None:
                help += f" (default: {default if default != [] else 'none'})"
        self.group.add_argument(f"--{name}", help=help, **settings)

    def error(self, message):
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and (
            close := difflib.get_close_matches(unknown.split()[0], self._option_string_actions)
        ):
            message += f"; did you mean {close[0]}?"
        message = " ".join(message.split())
        if (
            launch.local_rank()
        ):  # the processes of a machine have one command, of which the first one speaks
            self.exit(2)
        self.exit(2, f"{self.prog}: error: {message} (python {self.prog} --help lists the flags)\n")


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
            raise argparse.ArgumentTypeError(f"{text!r} is not a {noun} {bounds}")
        return value

    convert.metavar = "N" if kind is int else "X"
    return convert


def whole(low):
    """A converter for a flag: an integer from `low` to what 31 bits hold."""
    return number(low, 2**31 - 1, kind=int)


positive = number(above=0)
share = number(above=0, high=0.9)


def one_of(*choices, **aliases):
    """A converter for a flag: one of `choices`, in any case; `aliases` are other spellings."""
    known = {choice.lower(): choice for choice in choices} | aliases

    def convert(text):
        if text.lower() not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return known[text.lower()]

    convert.metavar = "|".join(choices)
    return convert


def text(word):
    """A converter for a flag: any text but none at all."""
    if not word:
        raise argparse.ArgumentTypeError("it is empty")
    return word


text.metavar = "TEXT"


def folder_name(text):
    """A converter for a flag: a name that is one folder, not a path."""
    if not text or text.startswith(".") or not text.isprintable() or set(text) & set("/\\"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain name for a folder")
    return text


folder_name.metavar = "NAME"
