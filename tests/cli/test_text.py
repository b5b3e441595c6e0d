"""Text from elsewhere cannot command the terminal, nor forge a line of the log."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.errors import UserError, status_of
from cli.flags import Parser
from cli.text import Multiline, escape_record, escaped

TITLE = "\x1b]0;owned\x07"  # sets the title of a terminal


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (TITLE, r"\x1b]0;owned\x07"),
        ("a\tb\nc\rd", r"a\tb\nc\rd"),
        ("\x7f\x85\x9b2J", r"\x7f\x85\x9b2J"),  # C1: the second is a line end, the third a CSI
        ("abc\u202edcba\u2066", r"abc\u202edcba\u2066"),  # written from right to left
        ("\udcff.csv", r"\udcff.csv"),  # a file name that is no UTF-8
        ("Amélie 千と千尋\u3000\u200fשש 🎬", "Amélie 千と千尋\u3000\u200fשש 🎬"),
    ],
)
def test_escaped(text, printed):
    assert escaped(text) == printed
    assert escaped(f"\t{text.replace(chr(10), '')}\n", lines=True).startswith("\t")


def test_the_log_escapes_every_argument(capsys, monkeypatch):
    log = logging.Logger("made")
    log.addFilter(escape_record)
    handler = logging.StreamHandler()
    log.addHandler(handler)
    log.info("\n%s: %s, %r, %-6s|", Path("a\nb"), TITLE, "c\nd", "\x07")
    log.info("%d of %d, %.2f", np.int64(3), torch.tensor(4), np.float32(0.5))
    log.info("%s\n\n%s", UserError("e\nf"), Multiline(f"table\n\t{TITLE}"))
    log.info(f"100% of {TITLE}")
    assert capsys.readouterr().err == (
        "\na\\nb: \\x1b]0;owned\\x07, 'c\\nd', \\x07  |\n"
        "3 of 4, 0.50\n"
        "e\\nf\n\ntable\n\t\\x1b]0;owned\\x07\n"
        "100% of \\x1b]0;owned\\x07\n"
    )


def test_errors_are_escaped(capsys):
    def fail(error):
        raise error

    for error in (UserError(f"no {TITLE}\r"), OSError(2, "gone", f"x{TITLE}")):
        assert status_of("main.py", fail, error) == 2
    assert status_of("main.py", fail, KeyboardInterrupt(f"go on with {TITLE}")) == 130
    with pytest.raises(SystemExit):
        Parser(prog="main.py").parse_args([f"--x{TITLE}"])
    stderr = capsys.readouterr().err
    assert stderr.count(r"\x1b]0;owned\x07") == stderr.count("\n") == 4
    assert not set(stderr) & set("\x1b\x07\r")
