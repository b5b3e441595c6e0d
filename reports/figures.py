"""Draw figures of one or more panels, readable without colour, into PNG files."""

import itertools
import textwrap
import warnings
from dataclasses import dataclass

import pandas as pd

from cli.signals import defer_interrupts
from utils import atomic_file

STYLES = tuple(zip(("-", "--", "-.", ":") * 2, "os^Dv*PX", strict=True))  # dash and marker


@dataclass
class Lines:
    """A panel by flag value: measures against the values of one flag, a line for each measure.

    flag: name without "--"
    lines: list of (label, rows of study.csv, measure)
    ylabel: name of the measures' axis
    """

    flag: str
    lines: list
    ylabel: str

    height = 4  # inches

    def draw(self, axes):
        """Draw into Matplotlib axes.

        The axis of the flag is logarithmic if its values are positive numbers over more than a
        decade. Otherwise they stand side by side, numbers in ascending order.
        """
        flags = (value for _, rows, _ in self.lines for value in rows[self.flag])
        values = list(dict.fromkeys(flags))
        numeric = all(isinstance(value, (int, float)) for value in values)
        values = sorted(values) if numeric else values
        log = numeric and 0 < 10 * values[0] < values[-1]
        styled = zip(self.lines, itertools.cycle(STYLES), strict=False)
        for number, ((label, rows, measure), (dash, marker)) in enumerate(styled):
            # Text values have no order, so draw points, those of one value side by side.
            shift = 0 if numeric else 0.1 * (number - (len(self.lines) - 1) / 2)
            rows = rows.sort_values(self.flag, key=lambda column: column.map(values.index))
            x = [value if log else values.index(value) + shift for value in rows[self.flag]]
            mean, error = rows[f"{measure}_mean"], rows[f"{measure}_std"].fillna(0)
            style = {"linestyle": dash if numeric else "none", "marker": marker, "markersize": 5}
            axes.errorbar(x, mean, yerr=error, label=label, capsize=3, **style)
        if log:
            axes.set_xscale("log")
        axes.set_xticks(values if log else range(len(values)), [str(value) for value in values])
        axes.minorticks_off()
        axes.set(xlabel=f"--{self.flag}", ylabel=self.ylabel)
        axes.grid(alpha=0.3)
        axes.legend()


@dataclass
class Series:
    """A panel by position: series of values against their position in the series, from 1.

    lines: list of (label, values)
    xlabel, ylabel: names of the axes
    heading: of the legend
    joined: whether values are joined to a line, with about ten markers; otherwise they are points
    from_zero: whether the axis of the values begins at 0
    """

    lines: list
    xlabel: str
    ylabel: str
    heading: str | None = None
    joined: bool = True
    from_zero: bool = True

    height = 4  # inches

    def draw(self, axes):
        """Draw into Matplotlib axes."""
        from matplotlib.ticker import MaxNLocator

        styled = zip(self.lines, itertools.cycle(STYLES), strict=False)
        for (label, values), (dash, marker) in styled:
            style = {"linestyle": "none", "markersize": 3}
            if self.joined:
                style = {"linestyle": dash, "markersize": 5, "markevery": max(1, len(values) // 10)}
            axes.plot(range(1, len(values) + 1), values, marker=marker, label=label, **style)
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel)
        if self.from_zero:
            # Count 0 among the data, so that the margin above is a share of the whole height.
            axes.update_datalim([(1, 0)])
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(title=self.heading)


@dataclass
class Curves:
    """A panel by epoch: values of chosen epochs, with about ten markers each.

    lines: list of (label or None, epochs, values)
    levels: list of (label, value, number of the line whose style it takes), horizontal lines
    best_epoch: a vertical line, or None
    from_zero: whether the axis of the values begins at 0
    """

    lines: list
    ylabel: str
    levels: list = ()
    best_epoch: int | None = None
    from_zero: bool = False

    height = 4

    def draw(self, axes):
        from matplotlib.ticker import MaxNLocator

        drawn = []
        for (label, epochs, values), (dash, marker) in zip(self.lines, STYLES, strict=False):
            every = max(1, len(epochs) // 10)
            style = {"linestyle": dash, "marker": marker, "markersize": 5, "markevery": every}
            drawn += axes.plot(epochs, values, label=label, **style)
        for label, value, number in self.levels:
            style = {"linestyle": drawn[number].get_linestyle(), "color": drawn[number].get_color()}
            axes.axhline(value, label=label, alpha=0.5, **style)
        if self.best_epoch is not None:
            label = f"best epoch ({self.best_epoch})"
            axes.axvline(self.best_epoch, color="gray", linestyle=":", label=label)
            axes.legend()
        axes.set(xlabel="epoch", ylabel=self.ylabel)
        if self.from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


@dataclass
class Bars:
    """A panel of bars: a measure of every combination of flags, the first one on top.

    labels: of the combinations
    ylabel: name of their axis
    table: study.csv, a row per combination
    measure: its columns are <measure>_mean and <measure>_std
    xlabel: name of the measure's axis
    """

    labels: list
    ylabel: str
    table: pd.DataFrame
    measure: str
    xlabel: str

    @property
    def height(self):
        """Inches."""
        return 1.5 + 0.25 * len(self.labels)

    def draw(self, axes):
        """Draw into Matplotlib axes."""
        mean = self.table[f"{self.measure}_mean"]
        error = self.table[f"{self.measure}_std"].fillna(0)
        axes.barh(self.labels, mean, xerr=error, capsize=3, color="lightgray", edgecolor="black")
        axes.invert_yaxis()
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel)
        axes.grid(alpha=0.3, axis="x")


@dataclass
class Groups:
    """A panel of bars by group, side by side: a colour and a hatching for each measure.

    labels: of the groups, in order
    measures: table, a row per group and a column per measure
    xlabel: what the groups are
    """

    labels: list
    measures: pd.DataFrame
    xlabel: str

    height = 4  # inches

    def draw(self, axes):
        """Draw into Matplotlib axes."""
        count = len(self.measures.columns)
        width = 0.8 / max(count, 1)
        styled = zip(self.measures.items(), itertools.cycle(("", "///", "...")), strict=False)
        for number, ((name, values), hatch) in enumerate(styled):
            x = [place + (number - (count - 1) / 2) * width for place in range(len(values))]
            axes.bar(x, values, width, label=name, hatch=hatch, edgecolor="black", alpha=0.7)
        axes.set_xticks(range(len(self.labels)), self.labels)
        axes.set(xlabel=self.xlabel, ylabel="metric on the test split")
        axes.grid(alpha=0.3, axis="y")
        if count:
            axes.legend()


@dataclass
class Points:
    """A panel of points of several kinds in the plane of two principal components.

    title: of the panel
    points: {kind: array (n, 2)}
    shares: of the variance, one per component
    """

    title: str
    points: dict
    shares: tuple

    height = 5.5  # inches

    def draw(self, axes):
        """Draw into Matplotlib axes."""
        styled = zip(self.points.items(), itertools.cycle(STYLES), strict=False)
        for (kind, points), (_, marker) in styled:
            axes.scatter(*points.T, s=14, marker=marker, alpha=0.7, linewidths=0, label=kind)
        names = (
            f"component {number} ({share:.0%} of the variance)"
            for number, share in enumerate(self.shares, 1)
        )
        axes.set(title=self.title, **dict(zip(("xlabel", "ylabel"), names, strict=True)))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, markerscale=1.5)


@dataclass
class Intervals:
    """A panel of differences with their intervals, the first one on top, and a line at 0.

    table: columns row (the label), difference, low and high
    xlabel: name of the difference's axis
    """

    table: pd.DataFrame
    xlabel: str

    @property
    def height(self):
        """Inches."""
        return 1.5 + 0.35 * len(self.table)

    def draw(self, axes):
        """Draw into Matplotlib axes."""
        from matplotlib.ticker import MaxNLocator

        table, places = self.table, range(len(self.table))
        lengths = [table["difference"] - table["low"], table["high"] - table["difference"]]
        style = {"fmt": "o", "color": "black", "markersize": 5, "capsize": 4}
        axes.errorbar(table["difference"], places, xerr=lengths, **style)
        axes.axvline(0, color="gray", linestyle="--")
        labels = [textwrap.fill(label, 24) for label in table["row"]]
        axes.set_yticks(places, labels, parse_math=False)
        axes.set_ylim(len(table) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel=self.xlabel)
        axes.grid(alpha=0.3, axis="x")


@defer_interrupts()  # Matplotlib's C++ code calls Python
def save_figure(path, title, panels, columns=None):
    """Draw panels side by side into a PNG file, written whole or not at all.

    path: of the file
    title: of the figure
    panels: list of objects with `height` and `draw(axes)`, see above
    columns: panels of a row, a divisor of their number; None: all of them
    """
    from matplotlib.figure import Figure

    columns = columns or len(panels)
    rows = len(panels) // columns
    size = 5 * columns, rows * max(panel.height for panel in panels)
    figure = Figure(figsize=size, layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axes in zip(panels, places, strict=True):
        panel.draw(axes)
    figure.suptitle(title, fontsize=10, parse_math=False)
    with atomic_file(path) as file, warnings.catch_warnings():
        # The font may lack the letters of a name.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(file, format="png", dpi=120)
