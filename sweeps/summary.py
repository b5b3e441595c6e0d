"""summary.json of a finished run, checked where it is read: it may be edited, or from elsewhere."""

import argparse
import json

import families
from cli.checks import numbers, require, table
from cli.config import converted
from cli.errors import UserError
from parse import flags_of


def read_summary(file):
    """Content of a summary.json (Path), a dict, whose `flags` are values that flags may have.

    Raises UserError if it is absent, or not what a run of this program writes.
    """
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file.parent} has no {file.name}: no finished run is there") from None
    except (ValueError, RecursionError) as error:  # of JSON, or of UTF-8
        raise UserError(f"{file} is damaged ({str(error)[:60]})") from None
    try:
        check(summary)
        return summary | {"flags": checked_flags(summary["flags"])}
    except (ValueError, argparse.ArgumentTypeError) as error:
        what = f"{file} is not the summary of a run of this program ({error})"
        raise UserError(what) from None


def check(summary):
    """Raise ValueError, with the place, for an entry that is absent or of another type."""
    table(summary, "it")
    for part in ("dataset", "protocol", "best", "flags"):
        table(summary.get(part), part)
    for name in ("name", "digest"):
        require(isinstance(summary["dataset"].get(name), str), f"dataset.{name}", "text")
    best = dict(summary["best"])
    numbers(best.pop("valid", {}), "best.valid")
    require(type(best.get("epoch", 0)) is int, "best.epoch", "whole number")
    numbers(best, "best")
    numbers(summary.get("seconds", {}), "seconds")


def checked_flags(values):
    """{flag: value} of a summary; ValueError or ArgumentTypeError for a value that no flag has.

    Flags that are unknown, and those of an unknown model, are left as they are; None becomes the
    default.
    """
    model = values.get("model")
    require(isinstance(model, (str, type(None))), "flags.model", "text")
    declared = flags_of(model) if model in families.models() else {}
    checked = {}
    for name, value in values.items():
        flag = declared.get(name)
        if flag and value is None:
            value = flag.default
        elif flag and not flag.local:  # the machine of the run may have had more cores
            value = converted(flag, value)
        checked[name] = value
    return checked
