"""--memory_tune: choose the settings of the memory that predict the streamed validation split best.

Shapes: n rows, m rows of a block.
"""

import logging
from itertools import product

import torch

from distributed import collectives
from families.clicks.dataset import RowRange
from families.clicks.memory import correct, recall
from families.clicks.metrics import click_metrics
from utils import progress_bar

log = logging.getLogger("onebp")


TUNED = ("memory_key", "memory_k", "memory_tau", "memory_lambda")  # flags that are chosen
# Their values to try, for memory_k by --memory.
KEYS = ("hidden", "embedding")
COUNTS = {"knn": (25, 50, 100, 200), "lsh": (16, 32, 64, 128)}
TAUS = (0.03, 0.1, 0.3)
LAMBDAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
TUNED_ROWS = 200_000  # the latest rows of the validation split that are used, at most


def tuning_rows(model):
    """The RowRange to choose on: the latest rows of the validation split. model: ClickModel"""
    start, stop = model.data.splits["valid"]
    return RowRange(model.data, max(start, stop - TUNED_ROWS), stop, model.device)


def choose_settings(name, make_learner, rows, users, args):
    """Choose the settings with which a learner predicts streamed rows best: {flag: value}.

    name: of the learner, for the log
    make_learner: function of {flag: value} that returns a new StreamLearner
    rows: RowRange, from tuning_rows
    users (n,): the rows' users, or None
    args: flags; uses memory, memory_gamma and slots

    Best is the highest AUC, or the highest mean of AUC and gAUC if there are users. Ties go to the
    settings that were tried first.
    """
    probabilities = predictions(name, make_learner, rows.divide(args.slots), args)
    labels, quality = rows.labels(), torch.zeros(len(probabilities), dtype=torch.float64)
    for number, column in enumerate(probabilities.values()):
        if number % collectives.world_size() == collectives.rank():  # each rank has its share
            metrics = click_metrics(labels, column, users)
            quality[number] = (metrics["AUC"] + metrics.get("gAUC", metrics["AUC"])) / 2
    quality = collectives.all_reduce_(quality).tolist()
    best = max(range(len(quality)), key=quality.__getitem__)
    chosen = dict(zip(TUNED, list(probabilities)[best], strict=True))
    flags = ", ".join(f"--{flag} {value}" for flag, value in chosen.items())
    text = "%s: of %d settings, the streamed validation split chose %s"
    log.info(text, name, len(probabilities), flags)
    return chosen


def predictions(name, make_learner, slots, args):
    """Predict slots with all settings: {values of TUNED: probabilities (n,)}.

    name, make_learner, args: see choose_settings
    slots: list of RowRange

    The slots are streamed once for each key. The similar examples are read for the largest
    memory_k: those for a smaller one are the first of them.
    """
    counts, probabilities = COUNTS[args.memory], {}
    settings = list(product(counts, TAUS))
    with progress_bar(f"tuning {name}", len(KEYS) * len(slots), "slot") as bar:
        for key in KEYS:
            learner = make_learner({"memory_key": key, "memory_k": max(counts)})
            blocks = []
            for slot in slots:
                for base, similar in learner.predict(slot):
                    means = [recall(similar.first(count), tau) for count, tau in settings]
                    columns = [
                        correct(base, *mean, strength, args.memory_gamma)
                        for mean in means
                        for strength in LAMBDAS
                    ]
                    blocks.append(collectives.all_gather_rows(torch.stack(columns, dim=1)))
                learner.learn(slot)
                bar.update()
            columns = torch.cat(blocks).T.contiguous()  # (m, settings) -> (settings, n)
            names = ((key, *setting, strength) for setting in settings for strength in LAMBDAS)
            probabilities |= zip(names, columns, strict=True)
    return probabilities
