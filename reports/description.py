"""What --mode describe prints and leaves: a text, description.json and description.png."""

import json
import logging
import textwrap
from dataclasses import dataclass, field

from cli.text import Multiline, escaped
from reports import names
from reports.console import command_line
from reports.figures import save_figure
from utils import atomic_file, versions

log = logging.getLogger("onebp")

LITTLE = 0.01  # a share that needs no word


@dataclass
class Description:
    """A data set in numbers, as JSON takes them, and in words.

    panels: of the figure, see reports.figures; without any there is none
    """

    numbers: dict
    text: str
    panels: list = field(default_factory=list)

    def write(self, folder, data):
        """Log the text, and write the files.

        folder (Path): of the files
        data: the data set; has name, counts(), describe() and digest
        """
        log.info("%s\n\n%s\n", data.describe(), Multiline(self.text))
        file = folder / names.DESCRIPTION
        about = {"name": data.name, **data.counts(), "digest": data.digest}
        content = {"command": command_line(), "versions": versions(), "dataset": about}
        with atomic_file(file, "w") as opened:
            json.dump(content | self.numbers, opened, indent=2)
        log.info("numbers      %s", file)
        if self.panels:
            figure = folder / names.DESCRIPTION_FIGURE
            columns = len(self.panels) if len(self.panels) % 2 else 2
            title = textwrap.fill(data.describe(), 60 * columns)
            save_figure(figure, title, self.panels, columns)
            log.info("figure       %s", figure)


def text_of(numbers):
    """What sources.description found in interactions, in words and tables."""
    parts = [sizes(numbers), per_user_and_item(numbers), splits(numbers)]
    parts.append(by_popularity(numbers["test"]["groups"]))
    found = {split: numbers[split] for split in ("valid", "test") if split in numbers}
    parts.append("\n".join(conclusion(split, of_split) for split, of_split in found.items()))
    return "\n\n".join(parts)


def sizes(numbers):
    """How many users, items, interactions and rows there are."""
    density = f"{numbers['density']:.3%} of all pairs of a user and an item"
    rows = [
        ("users", f"{numbers['users']:,}", ""),
        ("items", f"{numbers['items']:,}", ""),
        ("interactions", f"{numbers['interactions']:,}", density),
    ]
    if numbers["rows"] is not None:
        repeats = f"{numbers['repeats']:,} of them repeat a pair"
        rows.append(("rows of files", f"{numbers['rows']:,}", repeats))
    return aligned(rows, left=(0, 2))


def per_user_and_item(numbers):
    """How many interactions users and items have, and how unequal items are."""
    rows = [["interactions of", *numbers["interactions_of_users"]]]
    rows[0][2], rows[0][-1] = "least", "most"
    for name, kind in (("a user", "users"), ("an item", "items")):
        mean, *quantiles = numbers[f"interactions_of_{kind}"].values()
        rows.append([name, f"{mean:.1f}", *(f"{value:,}" for value in quantiles)])
    gini, top = numbers["gini_of_items"], numbers["share_of_top_items"]
    return (
        f"{aligned(rows)}\nGini coefficient of the items: {gini:.3f}. "
        f"The most popular tenth of them has {top:.1%} of the interactions."
    )


def splits(numbers):
    """What each split has, what of it training does not know, and its times."""
    spans = numbers["time"]["spans"] if numbers["time"] else {}
    columns = {
        "interactions": "interactions",
        "users": "users",
        "cold_users": "new users",
        "items": "items",
        "cold_items": "new items",
    }
    rows = [["split", *columns.values(), *(["first", "last"] if spans else [])]]
    for split, found in numbers["splits"].items():
        row = [split, *(f"{found[name]:,}" for name in columns)]
        span = spans.get(split, {})
        rows.append(row + [span.get(end) or "" for end in ("first", "last") if spans])
    notes = f"How it was split: {numbers['split']}. New: not in training."
    if without := sum(span["without"] for span in spans.values()):
        notes += f" {without:,} interactions have no time."
    return f"{aligned(rows)}\n{notes}"


def by_popularity(groups):
    """How much of the interactions of popular and of other items is tested."""
    rows = [["interactions of an item", "items", "tested", "if random", "variance"]]
    for group in groups:
        ratio, error = group["variance_ratio"], group["share_error"]
        rows.append(
            [
                span_of(group),
                f"{group['items']:,}",
                f"{group['share']:.2%}",
                f"{group['share_if_random']:.2%} ± {error:.2%}",
                "" if ratio is None else f"{ratio:.2f}",
            ]
        )
    return (
        "Share of the interactions that is in the test split, and how much the items' counts "
        f"there vary\n(1: as in a random split), by popularity:\n{aligned(rows)}"
    )


def span_of(group):
    """The interactions of the items of a group, from the fewest to the most."""
    least, most = group["least"], group["most"]
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def conclusion(split, found):
    """Whether a split is like a random one, and what follows.

    split: its name
    found: from sources.randomness.compare_with_random
    """
    if found["like_random"] is None:
        return f"The {split} split divides no user's interactions, so nothing of it is by chance."
    text = ""
    if found["undivided"] > LITTLE:
        text += (
            f"{found['undivided']:.1%} of the {split} split are of users without other "
            "interactions, about whom chance says nothing; here about the others. "
        )
    ratio, error = found["variance_ratio"], found["variance_ratio_error"]
    like = "like a random one of each user's interactions" if found["like_random"] else "not random"
    text += f"The {split} split is {like}: variance {ratio:.2f} (a random split: 1 ± {error:.2f}). "
    group = found["groups"][-1]
    if found["popular_items"] != "alike":
        text += (
            f"Its most popular items are in it {found['popular_items']} often than by chance: "
            f"{group['share']:.1%} of their interactions, not {group['share_if_random']:.1%}. "
        )
    if split == "test" and not found["like_random"]:
        text += (
            "So a random part of training is unlike this test split: settings that are best on it, "
            "above all the weight of popularity in the scores, need not be best here. Validate on "
            "a split that is made in the same way, or say beside each result which split chose its "
            "settings."
        )
    return textwrap.fill(text, 100)


def aligned(rows, left=(0,)):
    """Rows of texts as a table. left: columns that are aligned to the left"""
    rows = [list(map(escaped, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if number in left else text.rjust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
