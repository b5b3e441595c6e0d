"""Converters of flags' values."""

import argparse

import pytest

from cli.flags import number, or_auto


def test_or_auto_takes_what_its_kind_takes():
    convert = or_auto(number(0, 2))
    assert [convert(word) for word in ("1.5", "0", "auto", "AUTO")] == [1.5, 0.0, "auto", "auto"]
    assert convert.metavar == "X|auto"
    with pytest.raises(argparse.ArgumentTypeError, match=r"'3' is not a number .*, or auto"):
        convert("3")
