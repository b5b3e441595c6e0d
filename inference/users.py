"""The users that --users names: one id, ids separated by commas, a file of ids, or all users."""

import csv
import difflib
import logging
from pathlib import Path

import torch

from cli.errors import UserError

log = logging.getLogger("onebp")

ALIKE = 0.8  # least similarity (difflib's ratio, 1: equal) of an id that a message offers instead


def chosen_users(text, data, device):
    """Indices (n,) of the users that --users names, in its order. Repeated ids count once.

    text: the id of a user, whatever its characters; else "all"; else "@" and a file, see
        `ids_in_file`; else ids separated by commas, see `ids_in_list`
    data: Interactions
    device: of the result

    Raises UserError for an unknown id, and for a file or a list that cannot be read.
    """
    index_of = {user_id: index for index, user_id in enumerate(data.user_ids)}
    if text in index_of:
        if text == "all" or text.startswith("@") or "," in text:
            everybody = "; for all users, write their ids into a file" if text == "all" else ""
            log.info("--users %s is one user, who has this id%s", text, everybody)
        place_of = {text: ""}
    elif text == "all":
        place_of = index_of
    elif text.startswith("@"):
        place_of = ids_in_file(text.removeprefix("@"))
    else:
        place_of = ids_in_list(text, index_of)
    if unknown := [user_id for user_id in place_of if user_id not in index_of]:
        first, others = unknown[0], ""
        if len(place_of) > 1:
            others = f" (unknown: {len(unknown)} of {len(place_of)} ids)"
        # A list without quotes may be one id that has commas.
        meant = closest_id(first, index_of) or closest_id(text, index_of)
        advice = f"did you mean {meant!r}?" if meant else f"its ids are like {data.user_ids[0]!r}"
        raise UserError(f"{place_of[first]}{data.name} has no user {first!r}{others}; {advice}")
    return torch.tensor([index_of[user_id] for user_id in place_of], device=device)


def ids_in_list(text, known):
    """Read ids separated by commas, as in a row of CSV: quotes protect commas and blanks.

    Blanks around an id are dropped, unless it is known with them.

    text: the list
    known: ids of the data set

    Returns {id: ""}, in order. Raises UserError if quotes do not match.
    """
    try:
        fields = next(csv.reader([text], skipinitialspace=True, strict=True)) or [""]
    except csv.Error as error:
        raise UserError(
            f"--users {text!r}: {error}; separate ids by commas, and put quotes around an id that "
            "has commas, as in '\"Smith, J1\",u2'"
        ) from None
    return dict.fromkeys((field if field in known else field.strip() for field in fields), "")


def ids_in_file(path):
    """Read a file of ids as they are spelled, one a line. Blank lines are no ids.

    Returns {id: file and line for messages}, in order. Raises UserError if the file cannot be read,
    or holds no id.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # without a byte order mark
    except OSError as error:
        raise UserError(
            f"--users @{path}: {error.strerror}; after @ comes a file with an id in each line "
            "(put quotes around an id that begins with @)"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; convert the file to UTF-8") from None
    place_of = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            place_of.setdefault(line, f"{path}, line {number}: ")
    if not place_of:
        raise UserError(f"{path} has no ids; write one into each line")
    return place_of


def closest_id(wanted, known):
    """The id whose spelling is closest to an unknown one, or None if none is close.

    Case and blanks around it do not count. A number has no close ones: they are other users.
    """
    if wanted.strip().isdecimal():
        return None
    plain = {user_id.strip().casefold(): user_id for user_id in known}
    found = difflib.get_close_matches(wanted.strip().casefold(), plain, 1, ALIKE)
    return plain[found[0]] if found else None


def describe_users(names):
    """Describe one or more users by their ids: "user 'a'", or their number and the first three."""
    if len(names) == 1:
        return f"user {names[0]!r}"
    shown = ", ".join(map(repr, names[:3]))
    return f"{len(names)} users ({shown}{', ...' if len(names) > 3 else ''})"
