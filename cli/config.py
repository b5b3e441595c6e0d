"""Flags in a file: flags.toml of a run, --config and --like. Loads without torch.

A file is flat TOML: a line `name = value` per flag, named as on the command line.
"""

import argparse
import difflib
import json
import re
import sys
from pathlib import Path

from cli.errors import UserError
from cli.flags import Flag, whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "flags.toml"
# In checkpoints, but not of the command line: see parse.Flags.
REFIT_EPOCHS = Flag("refit_epochs", None, whole(1), help="epochs of a refit")


def named_file(config, like, log_root):
    """The FlagsFile that --config or --like names, or None without them.

    config: path of a file
    like: name of a run in `log_root`, or, with a slash, the folder of a run

    Raises UserError for both, and for a file that FlagsFile refuses.
    """
    if config and like:
        raise UserError("--config and --like both name a file of flags; give one of them")
    if config:
        return FlagsFile(Path(config))
    if not like:
        return None
    folder = Path(like) if "/" in like else Path(log_root) / like
    if not folder.is_dir():
        raise UserError(
            f"--like {like}: no run at {folder}; give the name of a run in --log_root, or the "
            f"path of its folder with a slash, as ./{folder.name}"
        )
    if not (folder / NAME).exists():
        raise UserError(f"--like {like}: {folder} has no {NAME}; only newer runs have one")
    return FlagsFile(folder / NAME)


class FlagsFile:
    """The flags that a file gives, as they stand there."""

    def __init__(self, path):
        """Raises UserError if the file is absent, no regular file, or no TOML."""
        self.path = path
        if path.is_dir():
            raise UserError(f"{path} is a folder; give its {NAME}, or --like with a run's folder")
        if path.exists() and not path.is_file():
            raise UserError(
                f"{path} is no regular file, and cannot be read twice; save the flags in a file"
            )
        try:
            self.text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"cannot read flags from {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise UserError(f"{path}, line {line}: no UTF-8 text; it is no file of flags") from None
        try:
            self.given = tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:  # ValueError: also of a too long number
            raise self._no_toml(str(error).splitlines()[0]) from None

    def _no_toml(self, reason):
        """The UserError for a file that is no TOML. reason: tomllib's message"""
        found = re.search(r" \(at (line (\d+), column \d+|end of document)\)$", reason)
        line = found and (found[2] or self.text.rstrip().count("\n") + 1)
        place = f"{self.path}, line {line}" if found else f"{self.path}"
        reason = reason[: found.start()] if found else reason
        if "overwrite" in reason:
            return UserError(f"{place}: this name stands there twice; keep one of the two lines")
        return UserError(f'{place}: no TOML ({reason}); a line is as lr = 0.1 or model = "OneBP"')

    def place(self, name):
        """File and line of a flag, for messages."""
        lines, first = self.text.replace("\r\n", "\n").split("\n"), 1
        for end in range(1, len(lines) + 1):
            try:
                if name in tomllib.loads("\n".join(lines[:end])):
                    break
                first = end + 1  # the value of the flag may be spread over several lines
            except ValueError:
                pass
        return f"{self.path}, line {first}"

    def values(self, declared):
        """{flag: value}, converted as the command line's words are.

        declared: {name: Flag} of all flags that exist

        Raises UserError, with the line, for an unknown name, and for a value of the wrong type or
        out of range.
        """
        values = {}
        for name, value in self.given.items():
            try:
                if name not in declared:
                    close = difflib.get_close_matches(name, declared)
                    raise ValueError(
                        f"there is no flag {name}"
                        + (f"; did you mean {close[0]}?" if close else "")
                    )
                values[name] = converted(declared[name], value)
            except (ValueError, argparse.ArgumentTypeError) as error:
                raise UserError(f"{self.place(name)}: {error}") from None
        return values


def taken_over(flags, declared, decides):
    """{flag: value} of those that may be taken over from a file of the program, e.g. a checkpoint.

    flags: {name: value}, of any types
    declared: {name: Flag}
    decides: what they decide, see Flag.decides; never places on a machine

    Raises ValueError for a value of the wrong type or out of range.
    """
    values = {}
    declared = declared | {REFIT_EPOCHS.name: REFIT_EPOCHS}
    for name, value in flags.items():
        flag = declared.get(name)
        # A cosine decay is spread over the epochs.
        if flag is None or flag.local or (flag.decides not in decides and name != "epochs"):
            continue
        absent = value is None and flag.default is None
        values[name] = None if absent else converted(flag, value)
    return values


def converted(flag, value):
    """The value of a Flag from a TOML value.

    Raises ValueError for a wrong type, argparse.ArgumentTypeError for a value out of range.
    """
    if flag.convert is None:
        if not isinstance(value, bool):
            raise ValueError(f"{flag.name} is true or false, without quotes")
        return value
    if flag.nargs is None:
        return converted_item(flag, value)
    if not isinstance(value, list) or (flag.nargs == "+" and not value):
        raise ValueError(f"{flag.name} is a list, as [{getattr(flag.convert, 'metavar', 'TEXT')}]")
    return [converted_item(flag, item) for item in value]


def converted_item(flag, value):
    """The value of a Flag, or one of its list, from a TOML value. Raises as `converted`."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        kinds = {bool: "true or false", dict: "a table", list: "a list"}
        kind = kinds.get(type(value), "a date without quotes")
        raise ValueError(f"{flag.name} is {kind}; write one number, or one text in quotes")
    if isinstance(value, str) and "\0" in value:  # no word of a command line has one
        raise ValueError(f"{flag.name} has a character 0")
    word = value if isinstance(value, str) else repr(value)
    try:
        result = flag.convert(word)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{flag.name}: {error}") from None
    if isinstance(result, str) != isinstance(value, str):
        quotes = "in quotes" if isinstance(result, str) else "without quotes"
        raise ValueError(f"{flag.name}: write {word} {quotes}")
    return result


def as_toml(title, sections):
    """The text of a file of flags.

    title: of the file, a line
    sections: {title: {flag: value}}; a value is a bool, a number, a text, or a list of these
    """
    blocks = [f"# {title}"]
    for name, flags in sections.items():
        lines = [f"{flag} = {toml_value(value)}" for flag, value in flags.items()]
        blocks += ["\n".join([f"# {name}", *lines])] if lines else []
    return "\n\n".join(blocks) + "\n"


def toml_value(value):
    """A value in TOML. Its texts are JSON's, except that TOML also escapes DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
