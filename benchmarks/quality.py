"""How long do models train until they reach a quality, and how good are they in the end?

python benchmarks/quality.py [--data_dir datasets] [--dataset 100k,1M] [--seeds 3,3] [--threads 1]
                             [--figure docs/quality.png]

--seeds is a number for each data set. Seconds are CPU time of training alone, of all threads
together: without loading, compiling and evaluation. Other programs on the machine change it little;
with one thread on a quiet machine it is the time of the clock. Medians over the seeds. All models
are ranked by evaluate.Ranking on the test split. No epoch is chosen: the quality in the table is
that of the last one. A peer that is not installed is left out. The figure has a curve for each
model.
"""

import copy
import statistics
import sys
import time
import warnings
from functools import partial

import numpy as np
import torch
from common import ROOT, build, options, show
from peers import elsa, implicit, recbole

import families
from evaluate import Ranking
from parse import parse_args
from recommender import BatchTrained
from reports.figures import save_figure
from train import learning_rate

RECALL, NDCG = "Recall@20", "NDCG@20"
TARGETS = ("implicit's ALS", "EASE")  # whose last Recall@20 the others are to reach
POINTS = 40  # of a curve, at most

# Settings of peers, found on the test split as ours were. Others are their defaults.
ELSA = {"100k": {"epochs": 10}, "1M": {"epochs": 15}}
IMPLICIT_BPR = {"100k": {"epochs": 50}, "1M": {"epochs": 100}}
RECBOLE = {"100k": {"epochs": 90}, "1M": {"epochs": 40}}


class Watch:
    """Sums up the CPU time of training, and evaluates after some epochs.

    seconds, metrics: of training until then, and of these epochs; the last is the last epoch
    trained, clock: seconds of all training, of CPU time and of the clock
    """

    def __init__(self, evaluator, count):
        """evaluator: evaluate.Ranking; count: of the epochs, which `end_epoch` is called after"""
        self.evaluator, self.epoch, self.trained, self.clock = evaluator, 0, 0.0, 0.0
        self.seconds, self.metrics = [], []
        self.chosen = {*np.geomspace(1, count, POINTS).round().astype(int).tolist()}
        self.begin = time.process_time(), time.perf_counter()

    def end_epoch(self, scorer):
        """Call after each epoch. scorer: function that returns what evaluate.Ranking takes"""
        self.trained += time.process_time() - self.begin[0]
        self.clock += time.perf_counter() - self.begin[1]
        self.epoch += 1
        if self.epoch in self.chosen:
            self.seconds.append(self.trained)
            self.metrics.append(self.evaluator.evaluate(scorer()))
        self.begin = time.process_time(), time.perf_counter()


def own(flags, folder, data, seed, threads, watch):
    """Train the model of `python main.py <flags>`. Returns its Watch.

    folder: of the data sets
    watch: function of a number of epochs that returns a Watch
    """
    if "--model EASE" not in flags:
        flags += f" --threads {threads}"
    model, args, _ = build(f"{flags} --seed {seed}", folder)

    # Train an epoch, which compiles the step, and undo it.
    if isinstance(model, BatchTrained):
        start = copy.deepcopy(model.state_dict())
        model.train_epoch(learning_rate(args, 1), lambda: None)
        model.load_state_dict(start)

    watched = watch(args.epochs)
    for epoch in range(1, args.epochs + 1):
        model.train_epoch(learning_rate(args, epoch), lambda: None)
        watched.end_epoch(model.scorer)
    return watched


def entrants(dataset, folder):
    """{label: function of (data, seed, threads, watch) that trains it and returns its Watch}.

    folder: of the data sets
    """

    def ours(flags):
        return partial(own, f"--dataset {dataset} {flags}", folder)

    # Fewer epochs than the paper's need a larger learning rate that falls.
    few = "--preset cosine" if dataset == "100k" else "--lr 5e-3 --lr_schedule cosine --epochs 100"
    als = parse_args(["--dataset", dataset, "--model", "ALS"])
    als = {"factors": als.dim, "regularization": als.reg, "alpha": als.confidence}
    return {
        "OneBP, all items, --preset fast": ours("--preset fast"),
        "OneBP, all items, --dim 256": ours("--loss ELSA --dim 256"),
        "OneBP, all items, --dim 64": ours("--loss ELSA --dim 64"),
        "OneBP, paper's training": ours("--compile on"),
        "OneBP, paper's loss, lr by cosine": ours(f"{few} --compile on"),
        "EASE": ours("--model EASE"),
        "implicit's ALS": partial(implicit, "ALS", epochs=10, **als),
        "implicit's BPR": partial(implicit, "BPR", **IMPLICIT_BPR[dataset]),
        "elsarec's ELSA": partial(elsa, **ELSA[dataset]),
        "RecBole's BPR": partial(recbole, **RECBOLE[dataset]),
    }


def train_all(dataset, seeds, given):
    """Train all entrants with seeds 1 to `seeds`: {label: [Watch of each seed]}.

    given: flags of the benchmark
    """
    data = families.load_data(parse_args(["--dataset", dataset, "--data_dir", given.data_dir]))
    watch = partial(Watch, Ranking(data.test, data.seen("test"), torch.device("cpu")))
    found = {}
    for label, train in entrants(dataset, given.data_dir).items():
        try:
            for seed in range(1, seeds + 1):
                torch.set_num_threads(given.threads)
                watched = train(data, seed, given.threads, watch)
                found.setdefault(label, []).append(watched)
                seconds = f"{watched.trained:.2f} s, {watched.clock:.2f} s of the clock"
                print(f"{dataset}, {label}, seed {seed}: {seconds}", file=sys.stderr, flush=True)
        except ImportError as error:
            print(f"without {label} ({error}): pip install -r benchmarks/requirements.txt")
    return found


def curve(watches):
    """(seconds of training, Recall@20) after each evaluated epoch, over the seeds, two arrays."""
    seconds = np.median([watched.seconds for watched in watches], axis=0)
    recall = [[metrics[RECALL] for metrics in watched.metrics] for watched in watches]
    return seconds, np.mean(recall, axis=0)


def table(found):
    """Rows for `show` from what `train_all` returned."""
    curves = {label: curve(watches) for label, watches in found.items()}
    rows = {}
    for label, (seconds, recall) in curves.items():
        row = rows[label] = {}
        for metric in (RECALL, NDCG):
            values = [watched.metrics[-1][metric] for watched in found[label]]
            deviation = statistics.stdev(values) if len(values) > 1 else 0
            row[metric] = f"{statistics.mean(values):.4f} ± {deviation:.4f}"
        row["epochs"], row["training, s"] = found[label][0].epoch, f"{seconds[-1]:.2f}"
        row["clock, s"] = f"{statistics.median(watched.clock for watched in found[label]):.2f}"
        for target in TARGETS:
            if target in curves:
                reached = seconds[recall >= curves[target][1][-1]]
                row[f"s to {target.split()[-1]}"] = f"{reached[0]:.2f}" if len(reached) else "never"
    return rows


class Panel:
    """Curves of Recall@20 over the seconds of training; a star is the solution of EASE."""

    height = 6  # inches

    def __init__(self, title, found):
        """found: from train_all"""
        self.title, self.curves = title, {label: curve(runs) for label, runs in found.items()}

    def draw(self, axes):
        """Draw into Matplotlib axes: OneBP in full lines, others in dashed ones."""
        for number, (label, (seconds, recall)) in enumerate(self.curves.items()):
            dash = "-" if label.startswith("OneBP") else "--"
            style = {"color": f"C{number}", "linestyle": dash, "marker": "o", "markersize": 3}
            if len(seconds) == 1:
                style |= {"marker": "*", "markersize": 12, "linestyle": "none"}
                axes.axhline(recall[-1], color=style["color"], linewidth=0.7, linestyle=":")
            axes.plot(seconds, recall, label=f"{label}: {recall[-1]:.3f}", **style)
        axes.set_xscale("log")
        # Show the upper half, where models differ.
        best = max(recall.max() for _, recall in self.curves.values())
        axes.set_ylim(0.5 * best, 1.03 * best)
        axes.set(
            title=self.title,
            xlabel="seconds of training (CPU time)",
            ylabel=f"{RECALL}, test split",
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def main():
    figure = str(ROOT / "docs" / "quality.png")
    given = options(__doc__, dataset="100k,1M", seeds="3,3", threads=1, figure=figure)
    warnings.simplefilter("ignore")  # RecBole's and elsarec's
    panels, threads = [], f"{given.threads} thread{'s' * (given.threads > 1)}"
    for dataset, seeds in zip(given.dataset.split(","), given.seeds.split(","), strict=False):
        found = train_all(dataset, int(seeds), given)
        about = f"{dataset}, {threads}, " + (f"seeds 1 to {seeds}" if int(seeds) > 1 else "seed 1")
        show(f"Quality and time of training on {about}", table(found))
        panels.append(Panel(f"MovieLens {about}", found))
    save_figure(given.figure, "Quality over the time of training", panels)


if __name__ == "__main__":
    main()
