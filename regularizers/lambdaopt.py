"""What keeps weights small: weight decay, one strength for all, or strengths that tune themselves (lambdaOpt).

Shapes: B batch, R rows of a table, M rows that a batch reads, D dim.
"""

import torch

from checkpointing.files import load_checkpoint
from cli.registry import SAMPLERS, find
from engine.optimizer import Adam
from engine.tables import take, value_and_gradients
from regularizers.decay import L2Penalty
from regularizers.strengths import (
    GROUPS,
    frequency_groups,
    group_means,
    training_counts,
    write_files,
)


class LambdaOpt(L2Penalty):
    """--regularizer lambdaopt: strengths per user, item, dimension, ..., that make the loss on held-out batches small.

    Before every --lambda_interval-th step: look ahead to where the step would lead, as a function of the strengths;
    move these down the gradient of the loss of a held-out batch there (Adam with amsgrad, --lambda_lr), not below 0;
    then make the step. All start at 0. The look-ahead is the very step that is about to be made, so the gradient of its
    batch is computed once. Only rows that it moves have a slope, so the held-out batch is of the same users, who are in
    both as often as they are active: a positive of each from data.tune, with negatives neither of it nor of training.

    --lambda_grad truncated: that gradient is a constant, and only rows that the held-out batch reads are looked at.
    full: the whole step is differentiated, and what a step does besides (OneBP: the move of the users) is looked ahead
    to as well. Without such a rest both are the same derivative, since the weights before the step, and with them the
    gradient of the loss, do not depend on the strengths.

    Source: Chen et al., lambdaOpt: learn to regularize recommender models in finer levels, KDD 2019, arXiv 1905.11596.
    There held-out and training losses are BPR; here both are --loss.
    """

    def __init__(self, model, by_row):
        self.model, self.decay = model, 0.0
        data, args = model.data, model.args
        self.full, self.clip = args.lambda_grad == "full", args.lambda_clip
        self.lr, self.interval = args.lambda_lr, args.lambda_interval
        self.sampler = find(SAMPLERS, args.sampler)(
            data.train + data.tune, args, model.generator, data.tune
        )
        tables = {
            name: table for name, table in model.trained().items() if name in ("user", "item")
        }
        self.strengths, self.owner = zeros(args.granularity, tables)
        self.own = {
            name: name in args.granularity.split("+") for name in tables
        }  # whether each row has its own
        self.by_row = by_row and all(self.own.values())
        self.optimizer = Adam(self.strengths, l2=0.0, by_row=self.by_row, amsgrad=True, low=0.0)
        counts, groups = (
            training_counts(data),
            {name: GROUPS if self.own[name] else 1 for name in tables},
        )
        self.groups = {name: frequency_groups(counts[name], groups[name]) for name in tables}
        self.trajectory = {
            name: torch.zeros(0, groups[name], dtype=torch.float64) for name in tables
        }

    def strength_of(self, name):
        """The strengths of a table, (R or 1, D or 1)."""
        return self.strengths[self.owner[name]]

    def held_out(self, number, batch):
        if number % self.interval:
            return None
        self.optimizer.prepare(self.lr)
        return self.sampler.of(batch[0])

    def regularised(self, gradients, trained, constant, place, batch, held_out):
        index, pulls = self.model.touched(*batch), self.pulls(trained, place, len(batch[0]))
        strengths = {
            self.owner[name]: self.optimizer.fetch(self.owner[name], index[name])[0]
            for name in pulls
        }
        if held_out is not None:
            slopes = self.slopes(
                strengths, gradients, pulls, trained, constant, place, batch, held_out
            )
            norm = sum(slope.square().sum() for slope in slopes.values()).sqrt()
            scale = (self.clip / (norm + 1e-6)).clamp(max=1)  # as in torch.nn.utils.clip_grad_norm_
            for name, slope in slopes.items():
                step = index.get(name), strengths[name], place.get(name), scale * slope
                strengths[name] = self.optimizer.step(name, *step)
            self.optimizer.count()
        return gradients | {
            name: gradients[name] + strengths[self.owner[name]] * pull
            for name, pull in pulls.items()
        }

    def slopes(self, strengths, gradients, pulls, trained, constant, place, batch, held_out):
        """The gradient, by the strengths, of the loss of `held_out` after a step on `batch`, like `strengths`.

        strengths: those of the rows of `trained`; pulls: see above; the others as in `regularised`.
        """
        model, base = self.model, self.model.optimizer
        index, read = model.touched(*batch), model.touched(*held_out)

        def look_ahead(strengths, gradients, name, rows):
            """Where the step leads the `rows` of a table (n,), None for all: (n, D)."""
            at, there = (rows, None) if rows is None else base.locate(name, index[name], rows)
            gradient = take(gradients[name], at)
            if name in pulls:
                strength = strengths[self.owner[name]]
                gradient = gradient + (take(strength, at) if self.own[name] else strength) * take(
                    pulls[name], at
                )
            if there is not None:
                gradient = gradient * there[:, None]
            return base.update(*base.read(name, rows), gradient)[0]

        def held_out_loss(strengths):
            slopes, still, ahead, where = gradients, constant, {}, dict(read)
            if self.full:
                slopes = torch.func.grad(model.loss)(trained, constant, place, *batch)
                rows = {name: index[name].flatten() if base.by_row else None for name in trained}
                moved = {name: look_ahead(strengths, slopes, name, rows[name]) for name in trained}
                ahead, still = {name: table.clone() for name, table in constant.items()}, {}
                model.after_step(moved | ahead, place, *batch)
            for name in trained:
                rows = read[name].flatten() if model.encoder.by_row else None
                ahead[name] = look_ahead(strengths, slopes, name, rows)
                if rows is not None:
                    where[name] = torch.arange(len(rows), device=rows.device).view(read[name].shape)
            return model.loss(ahead, still, where, *held_out)

        return value_and_gradients(held_out_loss, strengths)[1]

    def finish_epoch(self):
        """Record the mean strengths of the groups."""
        self.optimizer.finish()
        for name, group in self.groups.items():
            means = group_means(self.strength_of(name), group, self.trajectory[name].shape[1])
            self.trajectory[name] = torch.cat([self.trajectory[name], means[None]])

    @staticmethod
    def leave(data, folder, checkpoint):
        state = load_checkpoint(checkpoint)["model"]["regularizer"]
        return {"strengths": write_files(state, data, folder)}

    def state_dict(self):
        state = {
            "strengths": self.strengths,
            "owner": self.owner,
            "trajectory": dict(self.trajectory),
        }
        return {**state, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        for name, strength in self.strengths.items():
            if state["strengths"][name].shape != strength.shape:
                raise ValueError("the strengths have another shape")
            strength.copy_(state["strengths"][name])
        self.trajectory = dict(state["trajectory"])
        self.optimizer.load_state_dict(state["optimizer"])


def zeros(granularity, tables):
    """Strengths of the `tables` {name: (R, D)} at 0, {name: (R or 1, D or 1)}, and the name of those of each table."""
    parts = granularity.split("+")
    shared = granularity in ("global", "dimension")
    strengths, owner = {}, {}
    for name, table in tables.items():
        shape = (
            len(table) if name in parts else 1,
            table.shape[1] if "dimension" in granularity else 1,
        )
        owner[name] = "all" if shared else name
        strengths.setdefault(
            owner[name], torch.zeros(shape, dtype=table.dtype, device=table.device)
        )
    return strengths, owner
