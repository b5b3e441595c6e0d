"""Text from elsewhere (ids, titles, names of files), made safe to print: for log and errors.

A terminal obeys control characters, and a line break can forge a line of the log. What is printed
has them escaped as Python spells them, so "\\x1b]0;..." names an item and sets no title.
"""

import re
from numbers import Number

# Control characters C0 and C1; signs that turn the direction of writing, or end a line or
# paragraph; halves of surrogate pairs, which stand for bytes that are no text in file names.
CONTROL = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
UNSAFE = re.compile(f"[{CONTROL}]")
UNSAFE_IN_LINES = re.compile(f"(?![\n\t])[{CONTROL}]")  # a table of this program has line ends


class Multiline(str):
    """Text of several lines that this program made: as an argument of the log it keeps them."""


def escaped(text, lines=False):
    """The text with its control characters escaped; lines: but not line ends and tabs."""
    unsafe = UNSAFE_IN_LINES if lines else UNSAFE
    return unsafe.sub(lambda found: repr(found[0])[1:-1], str(text))


class _Value:
    """An argument of the log: %s has it escaped. %r escapes anyway."""

    def __init__(self, value):
        self.value = value

    def __str__(self):
        return escaped(self.value, lines=isinstance(self.value, Multiline))

    def __repr__(self):
        return repr(self.value)


def escape_record(record):
    """A filter of a logger: escape control characters in a record, once for all its handlers.

    Line ends stay in the message's own words and in Multiline, not in other arguments.
    """
    args = record.args if isinstance(record.args, tuple) else (record.args,)
    values = (arg if _is_number(arg) else _Value(arg) for arg in args)
    record.msg = escaped(str(record.msg) % tuple(values) if record.args else record.msg, lines=True)
    record.args = ()
    return True


def _is_number(arg):
    """Whether an argument may be formatted as a number: also a tensor or array of one."""
    return isinstance(arg, Number) or hasattr(arg, "__index__") or hasattr(arg, "__float__")
