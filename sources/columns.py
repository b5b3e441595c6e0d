"""Which column of a file is the user, the item, the rating and the time."""

import re
from dataclasses import dataclass

from cli.errors import UserError
from cli.registry import SEPARATORS

# Plain names (see `plain_name`) of columns. The first group goes before the second.
# fmt: off
NAMES = {
    "user": (
        ("user", "userid", "uid", "userindex", "useridx"),
        ("reviewerid", "customerid", "visitorid", "username", "sessionid", "member", "memberid"),
    ),
    "item": (
        ("item", "itemid", "iid", "itemindex", "itemidx"),
        ("movie", "movieid", "product", "productid", "parentasin", "asin", "book", "bookid",
         "isbn", "artist", "artistid", "track", "trackid", "song", "songid", "business",
         "businessid", "place", "placeid", "venue", "venueid", "location", "locationid", "poi",
         "poiid", "article", "articleid", "animeid", "gameid", "recipeid", "newsid"),
    ),
    "rating": (
        ("rating", "ratings", "score", "stars", "overall", "bookrating"),
        ("label", "target", "preference", "weight", "plays", "playcount", "count"),
    ),
    "time": (
        ("timestamp", "time", "unixreviewtime", "datetime", "ts", "unixtime", "unixtimestamp"),
        ("date", "reviewtime", "reviewdate", "createdat", "checkintime", "utctime"),
    ),
}
# fmt: on
ROLES = tuple(NAMES)
USER_NAMES = tuple(name for group in NAMES["user"] for name in group)
ITEM_NAMES = tuple(name for group in NAMES["item"] for name in group)
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|UTC|[+-]\d\d:?\d\d))?)?")
NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
NO_VALUE = ("", "na", "n/a", "nan", "null", "none", "\\n")  # what stands for a missing value
EARLIEST = 100_000_000  # a whole number from here on may be a Unix time (1973), but is no rating


@dataclass(frozen=True)
class Wanted:
    """How the user wants files to be read; None: recognise it.

    format: csv (quotation marks enclose fields), table (they are letters), json, lightgcn, counted
    separator: a sign of cli.registry.SEPARATORS
    user, item, rating, time: a column's name, or its number from 1
    header: whether a table surely begins with the names of its columns
    """

    format: str | None = None
    separator: str | None = None
    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None
    header: bool = False

    def flags(self):
        """{flag: value} of what flags say."""
        values = {"format": self.format, "separator": self.separator}
        values |= {f"{role}_column": name for role, name in self.columns().items()}
        return {flag: value for flag, value in values.items() if value is not None}

    def columns(self):
        """{role: column} of the columns that are named."""
        return {role: name for role in ROLES if (name := getattr(self, role)) is not None}


def wanted_of(args):
    """The Wanted of the flags `args`."""
    columns = {role: getattr(args, f"{role}_column") for role in ROLES}
    return Wanted(args.format, SEPARATORS.get(args.separator), **columns)


@dataclass(frozen=True)
class Unclear:
    """Stands for a role that several columns could have; it matters only if the role is needed.

    message: to be put after the file's name
    """

    message: str


def plain_name(name):
    """A column's name without signs between words: "userid" for "User_ID" or "user_id:token"."""
    return re.sub(r"[ _.#-]", "", name.split(":")[0].lower())


def choose_columns(layout, wanted):
    """{role: position of its column, None if there is none, or Unclear}.

    layout (Layout), with names
    wanted (Wanted)

    Raises UserError if there is no column of users or items, or more than one could be it.
    """
    chosen = {
        role: named_column(layout, f"{role}_column", name)
        for role, name in wanted.columns().items()
    }
    found = _by_name if layout.header else _by_content
    others = [role for role in ROLES if role not in chosen]
    if set(others) & {"user", "item"} or layout.header:
        chosen |= found(layout, others, set(chosen.values()))
    for role in ("user", "item"):
        if isinstance(chosen[role], Unclear):
            raise UserError(f"{layout.path}{chosen[role].message}")
    if wanted.format is None:
        for role in ("user", "item"):
            _check_no_lists(layout, chosen[role], role)
    positions = [place for place in chosen.values() if isinstance(place, int)]
    if len(set(positions)) < len(positions):
        twice = next(place for place in positions if positions.count(place) > 1)
        roles = " and ".join(role for role, place in chosen.items() if place == twice)
        raise UserError(f"{layout.path}: column {layout.names[twice]!r} is named as {roles}")
    return {role: chosen.get(role) for role in ROLES}


def _check_no_lists(layout, place, role):
    """Raise UserError if a column of a table holds lists, as "[1, 2]", not ids."""
    values = [row[place] for row in layout.samples if isinstance(row[place], str)]
    lists = [value for value in values if re.fullmatch(r"\s*\[.*,.*\]\s*", value)]
    if lists and 2 * len(lists) >= len(values):
        raise UserError(
            f"{layout.path}: column {layout.names[place]!r} of the {role}s holds lists, as "
            f"{lists[0][:40]!r}; write a row for each {role}, or say --format (csv, say) to take "
            "them for ids"
        )


def named_column(layout, flag, name):
    """Position of the column that a flag names. Raises UserError if it is absent.

    name: the column's name, without the type that RecBole writes behind it, or number from 1
    """
    names = list(layout.names)
    alike = [place for place, other in enumerate(names) if other.split(":")[0] == name]
    exact = [place for place, other in enumerate(names) if other == name]
    found = exact or alike
    if len(found) == 1:
        return found[0]
    if not found and name.isascii() and name.isdigit() and 0 < int(name) <= len(names):
        return int(name) - 1
    problem = "more than one column" if found else "no column"
    advice = ""
    if {*name.split(",")} <= {*names}:
        advice = f"; separate names by blanks, as --{flag} {name.replace(',', ' ')}"
    raise UserError(
        f"{layout.path} has {problem} {name!r} for --{flag}; it has {_all_columns(layout)}{advice}"
    )


def _by_name(layout, roles, taken):
    """{role: position, None or Unclear}, by the names in the header.

    taken: positions of columns that flags name
    """
    plain = [plain_name(name) for name in layout.names]
    free = [place for place in range(len(plain)) if place not in taken]
    # Objects of JSON lines may lack a field: one that all have goes before as a user or an item.
    whole = [place for place in free if all(row[place] is not None for row in layout.samples)]
    found = {}
    for role in roles:
        groups = [
            [place for place in pool if plain[place] in group]
            for pool in ([whole, free] if role in ("user", "item") else [free])
            for group in NAMES[role]
        ]
        places = next(filter(None, groups), [])
        found[role] = places[0] if len(places) == 1 else None
        listed = list_names([layout.names[place] for place in places])
        if len(places) > 1:
            found[role] = Unclear(
                f": several columns could be the {role}: {listed}; name one by --{role}_column"
            )
        elif not places and role in ("user", "item"):
            found[role] = Unclear(
                f": no column is known to be the {role}; it has {_all_columns(layout)}; "
                f"name one by --{role}_column"
            )
    return found


def _by_content(layout, roles, taken):
    """{role: position, None or Unclear} of a table without a header, by its first rows."""
    columns = list(zip(*layout.samples, strict=True))
    kinds = [kind_of(column) for column in columns]
    by_number = _order_of(columns, kinds)
    if by_number is None or taken:
        first = layout.separator.join(layout.samples[0])[:60]
        line = (
            f" has {len(columns)} columns and no header (first row {first!r}): "
            f"say which is which, as --user_column 1 --item_column 2"
        )
        by_number = {role: Unclear(line) for role in ("user", "item")}
    return {role: by_number.get(role) for role in roles}


def _order_of(columns, kinds):
    """{role: position} of the columns of a table without a header, or None if it is not known."""
    if len(columns) == 5 and kinds[1:4] == ["iso", "decimal", "decimal"]:
        return {
            "user": 0,
            "time": 1,
            "item": 4,
        }  # check-ins: user, time, latitude, longitude, place
    if not 2 <= len(columns) <= 4 or {"iso", "decimal"} & {*kinds[:2]}:
        return None
    known = {"user": 0, "item": 1}
    # Amazon's ratings of 2018 have the product first.
    if _all_match(columns[0], r"B[0-9A-Z]{9}|\d{9}[\dX]") and _all_match(
        columns[1], r"A[0-9A-Z]{9,20}"
    ):
        known = {"user": 1, "item": 0}
    # Then the rating and the time; if both are small numbers, in this order by custom.
    others = range(2, len(columns))
    times = [place for place in others if kinds[place] in ("iso", "time")]
    ratings = [place for place in others if kinds[place] in ("whole", "decimal")]
    if len(ratings) == 2:
        times = [ratings.pop()]
    if len(times) + len(ratings) < len(others) or len(times) > 1:
        return None
    if others and not times and kinds[0] == "time" and _is_clock(columns[0]):
        return None
    return known | {"rating": next(iter(ratings), None), "time": next(iter(times), None)}


def _is_clock(column):
    """Whether numbers may be the times of a log: Unix times in order, most of them once."""
    numbers = [float(value) for value in column if re.fullmatch(r"\d+(\.\d*)?", value)]
    unit = 1000 ** (len(str(int(max(numbers, default=0)))) // 3 - 3)
    since_1982 = all(400_000_000 < number / unit < 2_500_000_000 for number in numbers)
    in_order = numbers == sorted(numbers) and 2 * len(set(numbers)) > len(numbers) > 1
    return since_1982 and in_order


def kind_of(column):
    """What the values of a column are: "whole", "decimal", "time" (Unix), "iso" or "text".

    Nine of ten values decide: one may be broken or missing.
    """
    values = [value for value in column if value]
    enough = 0.9 * len(values)
    whole = [int(value) for value in values if re.fullmatch(r"[-+]?\d{1,30}", value)]
    if values and len(whole) >= enough:
        return "time" if min(whole) >= EARLIEST else "whole"
    if values and sum(NUMBER.fullmatch(value) is not None for value in values) >= enough:
        numbers = [float(value.replace(",", ".")) for value in values if NUMBER.fullmatch(value)]
        return "time" if min(numbers) >= EARLIEST else "decimal"
    if values and sum(ISO_TIME.fullmatch(value) is not None for value in values) >= enough:
        return "iso"
    return "text"


def is_value(text):
    """Whether a text is a number or a time, which no name of a column is."""
    return bool(NUMBER.fullmatch(text) or ISO_TIME.fullmatch(text))


def _all_match(column, pattern):
    """Whether all values match."""
    return all(re.fullmatch(pattern, value) for value in column)


def _all_columns(layout):
    """The names of all columns, for a message."""
    lists = f", and lists, which are no ids: {list_names(layout.lists)}" if layout.lists else ""
    return list_names(layout.names) + lists


def list_names(names):
    """The names, for a message."""
    return ", ".join(names)[:120]


def say_columns(layout, columns):
    """In words: "user_id -> user, item_id -> item"."""
    at = "" if layout.header or layout.kind != "table" else "column "
    return ", ".join(
        f"{at}{layout.names[place]} -> {role}"
        for role, place in columns.items()
        if isinstance(place, int)
    )
