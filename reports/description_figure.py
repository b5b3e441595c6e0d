"""The panels of --mode describe: long tails, the test split by popularity, periods."""

from dataclasses import dataclass

from reports.figures import STYLES

# The gray and the hatch of each split.
FILLS = {
    "train": ("0.85", ""),
    "tune": ("0.85", "..."),
    "valid": ("0.6", "///"),
    "test": ("0.25", ""),
}
MOST_LABELS = 12  # of an axis of periods


def panels_of(numbers):
    """The panels of a figure of what sources.description found in interactions."""
    groups = numbers["test"]["groups"]
    panels = [LongTail(numbers["ranked"]), ShareTested(groups), Variance(groups)]
    return [*panels, Periods(numbers["time"])] if numbers["time"] else panels


@dataclass
class LongTail:
    """A panel of the interactions of users and items by their rank, both axes logarithmic.

    ranked: {"users" or "items": {"rank": list, "interactions": list}}
    """

    ranked: dict

    height = 4  # inches

    def draw(self, axes):
        """Draw into Matplotlib axes."""
        for (kind, curve), (dash, marker) in zip(self.ranked.items(), STYLES, strict=False):
            style = {"linestyle": dash, "marker": marker, "markersize": 5, "markevery": 10}
            axes.plot(curve["rank"], curve["interactions"], label=kind, **style)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="rank, from the most interactions on",
            ylabel="interactions of a user or item",
        )
        axes.set_title("Users and items by their interactions", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend()


@dataclass
class ShareTested:
    """A panel of the share in the test split by popularity, beside that of random splits.

    groups: list of sources.randomness.group_numbers
    """

    groups: list

    height = 4

    def draw(self, axes):
        from matplotlib.ticker import PercentFormatter

        places = range(len(self.groups))
        shares, means, errors = (
            [group[name] for group in self.groups]
            for name in ("share", "share_if_random", "share_error")
        )
        low, high = (
            [mean + sign * 2 * error for mean, error in zip(means, errors, strict=True)]
            for sign in (-1, 1)
        )
        band = {"color": "0.8", "label": "random split, ± 2 standard deviations"}
        axes.fill_between(places, low, high, **band)
        axes.plot(places, means, color="0.4", linestyle="--", label="random split, mean")
        axes.plot(places, shares, color="black", marker="o", label="this split")
        axes.set_title("Share of the interactions that is tested, by popularity", fontsize=10)
        # Show at least a fourth more and less than the mean, so that noise looks small.
        axes.update_datalim([(0, 0.75 * min(means)), (0, 1.25 * max(means))])
        axes.autoscale_view()
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        label_groups(axes, self.groups)
        axes.legend(loc="best")


@dataclass
class Variance:
    """A panel of how much the items' counts in the test split vary, by popularity.

    groups: list of sources.randomness.group_numbers
    """

    groups: list

    height = 4

    def draw(self, axes):
        ratios = [group["variance_ratio"] or 0 for group in self.groups]
        style = {"color": "lightgray", "edgecolor": "black", "label": "this split"}
        axes.bar(range(len(ratios)), ratios, **style)
        axes.axhline(1, color="black", linestyle="--", label="random split")
        axes.set_ylim(0, max(2, 1.1 * max(ratios)))
        axes.set_title("Variance of the items' test counts, by popularity", fontsize=10)
        axes.set_ylabel("multiple of a random split's")
        label_groups(axes, self.groups)
        axes.legend()


def label_groups(axes, groups):
    """Name the groups on the horizontal axis."""
    spans = [f"{group['least']:,}-{group['most']:,}" for group in groups]
    axes.set_xticks(range(len(groups)), spans, rotation=45, ha="right")
    axes.set_xlabel("interactions of an item (groups of about equal interactions)")
    axes.grid(alpha=0.3, axis="y")


@dataclass
class Periods:
    """A panel of the interactions of each period, the splits on top of each other.

    time: from sources.periods.timeline
    """

    time: dict

    height = 4

    def draw(self, axes):
        starts = self.time["starts"]
        below = [0] * len(starts)
        for split, (gray, hatch) in FILLS.items():
            counts = self.time["counts"].get(split)
            if counts is None:
                continue
            style = {"color": gray, "hatch": hatch, "edgecolor": "black", "linewidth": 0.4}
            axes.bar(range(len(starts)), counts, 1, below, label=split, **style)
            below = [sum(pair) for pair in zip(below, counts, strict=True)]
        every = -(-len(starts) // MOST_LABELS)
        axes.set_xticks(range(0, len(starts), every), starts[::every], rotation=45, ha="right")
        axes.set_title(f"Interactions by time, a bar per {self.time['period']}", fontsize=10)
        axes.set(xlabel="start of the period", ylabel="interactions")
        axes.use_sticky_edges = False  # else the highest bar would touch the frame
        axes.autoscale_view()
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3, axis="y")
        axes.legend()
