"""Choose the columns of a table of clicks: label, fields and user."""

from dataclasses import dataclass, replace

from cli.errors import UserError
from families.clicks.reader import ClickLog
from sources.columns import NAMES, is_value, named_column, plain_name
from sources.formats import recognise_all

LABEL_NAMES = ("label", "click", "clicked", "target")
USER_NAMES = (*NAMES["user"][0], "reviewerid", "customerid", "visitorid")  # a session is no user


@dataclass(frozen=True)
class Columns:
    """The columns of a table of clicks as flags name them; None: as `table_log` chooses.

    label: the column of labels
    above: see ClickSource
    categorical, numeric: lists of fields
    """

    label: str | None = None
    above: float | None = None
    categorical: list | None = None
    numeric: list | None = None


def table_log(files, columns, wanted, skip):
    """The ClickLog of tables with a header, and a line for each that says how it is read.

    files: {split: path}; the first decides on the columns
    columns (Columns): label: None is the column with a name of LABEL_NAMES; categorical: None is
        all columns beside the label, as far as they are not numeric
    wanted (Wanted)
    skip: whether broken lines are left out

    Raises UserError for a wrong header, and for a flag that names a wrong column.
    """
    layouts = recognise_all(list(files.values()), replace(wanted, header=True))
    layouts = [_checked(layout) for layout in layouts]
    first, *others = layouts
    label = first.names[_label_place(first, columns.label)]
    user = _user(first, wanted.user, label)

    # Choose the fields, in the order of the columns.
    named = {
        flag: [first.names[named_column(first, flag, name)] for name in names or ()]
        for flag, names in (("categorical", columns.categorical), ("numeric", columns.numeric))
    }
    categorical, numeric = named["categorical"], named["numeric"]
    chosen = {*categorical, *numeric} if categorical else {*first.names} - {label}
    if twice := sorted({label} & {*chosen, *numeric} | {*numeric} & {*categorical}):
        raise UserError(
            f"column {twice[0]!r} is named twice by --label, --categorical and --numeric; "
            "name it once"
        )
    fields = [name for name in first.names if name in chosen]
    if not fields:
        raise UserError(
            f"{first.path} has no column beside the label {label!r}; "
            "there is nothing to predict from"
        )
    for layout in others:
        _check_equal(first, layout, [label, *fields, *[user] * bool(user)])
    numeric = [name for name in fields if name in numeric]
    source = ClickLog(
        dict(zip(files, layouts, strict=True)), label, fields, numeric, user, columns.above, skip
    )
    return source, [say(layout, source) for layout in layouts]


def _checked(layout):
    """The Layout of a table. Raises UserError if it cannot be used."""
    if not layout.names:
        raise UserError(
            f"{layout.path}: --format {layout.kind} is for interactions; clicks are a table with a "
            "header, JSON lines, Parquet or Arrow"
        )
    if len(set(layout.names)) < len(layout.names):
        names = ", ".join(layout.names)
        raise UserError(f"{layout.path}, line 1: two columns have one name: {names}")
    return layout


def _label_place(layout, name):
    """Position of the column of labels. name: --label, or None for one of LABEL_NAMES"""
    names = ", ".join(layout.names)
    if name is not None:
        place = named_column(layout, "label", name)
        if layout.kind == "table" and is_value(layout.names[place]):
            raise UserError(
                f"{layout.path}: the first line ({names[:60]}) holds values; put a header above it"
            )
        return place
    places = _places(layout, LABEL_NAMES)
    if not places:
        expected = " or ".join(LABEL_NAMES)
        raise UserError(
            f"{layout.path}: no column is called {expected}; name it by --label: {names}"
        )
    if len(places) > 1:
        several = ", ".join(layout.names[place] for place in places)
        raise UserError(
            f"{layout.path}: several columns could be the label: {several}; name one by --label"
        )
    return places[0]


def _user(layout, name, label):
    """Name of the column of users, or None. name: --user_column, or None for a usual one"""
    if name is not None:
        return layout.names[named_column(layout, "user_column", name)]
    found = [layout.names[place] for place in _places(layout, USER_NAMES)]
    found = [other for other in found if other != label]
    if len(found) > 1:
        raise UserError(
            f"{layout.path}: several columns could be the user: {', '.join(found)}; "
            "name one by --user_column"
        )
    return found[0] if found else None


def _places(layout, usual):
    """Positions of the columns with a usual name."""
    return [place for place, name in enumerate(layout.names) if plain_name(name) in usual]


def _check_equal(first, layout, needed):
    """Raise UserError if a file lacks a column that the training split's file has.

    first, layout: Layouts of the training split and of another
    needed: names of the label, the fields and the user, in this order
    """
    missing = [name for name in needed if name not in layout.names]
    if needed[0] in missing:
        raise UserError(
            f"{layout.path} has no column {needed[0]!r}, the label, so it cannot be a split; move "
            f"it away: then {first.path.name} is split"
        )
    if missing:
        raise UserError(
            f"{layout.path} has no column {missing[0]!r}, which {first.path.name} has; "
            "give both the same columns, or name those to take by --categorical and --numeric"
        )


def say(layout, source):
    """In words: how a file is read, and which column is taken for what."""
    clicks = "" if source.above is None else f" (a click if above {source.above:g})"
    said = [f"{source.label} -> label{clicks}"]
    if source.user:
        said.append(f"{source.user} -> user (for gAUC)")
    for kind, count in (
        ("numeric", len(source.numeric)),
        ("categorical", len(source.fields) - len(source.numeric)),
    ):
        if count:
            said.append(f"{count} {kind} field{'s' * (count > 1)}")
    histories = [f"{name} (of {field})" for name, field in source.histories.items()]
    said += [f"histories {', '.join(histories)}"] if histories else []
    used = {source.label, source.user, *source.fields, *source.histories}
    if unused := [name for name in layout.names if name not in used]:
        said.append(f"not used: {', '.join(unused)[:80]}")
    return f"{layout.path}: {layout.describe()}: {', '.join(said)}"
