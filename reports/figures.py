"""The panels of figures, readable without colour, and a figure of them, written whole or not at all."""

import itertools
import warnings
from dataclasses import dataclass

import pandas as pd

from utils import atomic_file

STYLES = tuple(zip(("-", "--", "-.", ":") * 2, "os^Dv*PX", strict=True))  # dash and marker


@dataclass
class Lines:
    """A panel: measures against the values of one flag."""

    flag: str
    lines: list  # of (label, rows of study.csv, measure)
    ylabel: str

    height = 4  # inches

    def draw(self, axes):
        """Positions: on a log axis where the values are positive and span more than a decade, else side by side."""
        values = list(
            dict.fromkeys(value for _, rows, _ in self.lines for value in rows[self.flag])
        )
        numeric = all(isinstance(value, (int, float)) for value in values)
        values = sorted(values) if numeric else values
        log = numeric and 0 < 10 * values[0] < values[-1]
        for number, ((label, rows, measure), (dash, marker)) in enumerate(
            zip(self.lines, itertools.cycle(STYLES), strict=False)
        ):
            # Names have no order that a line could show, so theirs are points, side by side.
            shift = 0 if numeric else 0.1 * (number - (len(self.lines) - 1) / 2)
            rows = rows.sort_values(self.flag, key=lambda column: column.map(values.index))
            place = [value if log else values.index(value) + shift for value in rows[self.flag]]
            mean, error = rows[f"{measure}_mean"], rows[f"{measure}_std"].fillna(0)
            style = {
                "linestyle": dash if numeric else "none",
                "marker": marker,
                "markersize": 5,
                "capsize": 3,
            }
            axes.errorbar(place, mean, yerr=error, label=label, **style)
        if log:
            axes.set_xscale("log")
        axes.set_xticks(values if log else range(len(values)), [str(value) for value in values])
        axes.minorticks_off()
        axes.set(xlabel=f"--{self.flag}", ylabel=self.ylabel)
        axes.grid(alpha=0.3)
        axes.legend()


@dataclass
class Series:
    """A panel: values by their place from 1; `joined` to lines with some ten markers each, or points."""

    lines: list  # of (label, values)
    xlabel: str
    ylabel: str
    heading: str | None = None  # of the legend
    joined: bool = True
    from_zero: bool = True  # whether the axis of the values begins at 0

    height = 4

    def draw(self, axes):
        from matplotlib.ticker import MaxNLocator

        for (label, values), (dash, marker) in zip(
            self.lines, itertools.cycle(STYLES), strict=False
        ):
            style = {"linestyle": "none", "markersize": 3}
            if self.joined:
                style = {"linestyle": dash, "markersize": 5, "markevery": max(1, len(values) // 10)}
            axes.plot(range(1, len(values) + 1), values, marker=marker, label=label, **style)
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel)
        if self.from_zero:
            axes.update_datalim([(1, 0)])  # so that the margin above is a share of the whole height
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(title=self.heading)


@dataclass
class Bars:
    """A panel: a measure of every combination."""

    labels: list
    ylabel: str
    table: pd.DataFrame  # study.csv
    measure: str
    xlabel: str

    @property
    def height(self):
        return 1.5 + 0.25 * len(self.labels)

    def draw(self, axes):
        mean, error = (
            self.table[f"{self.measure}_mean"],
            self.table[f"{self.measure}_std"].fillna(0),
        )
        axes.barh(self.labels, mean, xerr=error, capsize=3, color="lightgray", edgecolor="black")
        axes.invert_yaxis()  # the first combination on top
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel)
        axes.grid(alpha=0.3, axis="x")


@dataclass
class Points:
    """A panel: points of several kinds in the plane of two principal components."""

    title: str
    points: dict  # kind -> array (n, 2)
    shares: tuple  # of the variance, one per component

    height = 5.5

    def draw(self, axes):
        for (kind, points), (_, marker) in zip(
            self.points.items(), itertools.cycle(STYLES), strict=False
        ):
            axes.scatter(*points.T, s=14, marker=marker, alpha=0.7, linewidths=0, label=kind)
        names = (
            f"component {number} ({share:.0%} of the variance)"
            for number, share in enumerate(self.shares, 1)
        )
        axes.set(title=self.title, **dict(zip(("xlabel", "ylabel"), names, strict=True)))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, markerscale=1.5)


def save_figure(path, title, panels):
    """Draw the panels side by side into the PNG `path`."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(5 * len(panels), max(panel.height for panel in panels)), layout="constrained"
    )
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        panel.draw(axes)
    figure.suptitle(title, fontsize=10, parse_math=False)
    with atomic_file(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that the font lacks
        figure.savefig(file, format="png", dpi=120)
