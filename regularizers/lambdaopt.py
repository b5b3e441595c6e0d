"""lambdaOpt: regularization strengths that are learned on held-out interactions during training.

Shapes: B batch, R rows of a table, M rows that a batch reads, D dim.
"""

import torch

from checkpointing.files import load_checkpoint
from cli.registry import SAMPLERS, find
from engine.adam import Adam
from engine.tables import overwrite, take, value_and_gradients
from regularizers.decay import L2Penalty
from regularizers.strengths import (
    GROUPS,
    frequency_groups,
    group_means,
    training_counts,
    write_files,
)


class LambdaOpt(L2Penalty):
    """--regularizer lambdaopt: learns L2 strengths per user, item, dimension, ... in training.

    The strengths reduce the loss of held-out batches. All are 0 at the start. Before every
    --lambda_interval-th step:

    1. Look ahead: compute the weights after the step as a function of the strengths.
    2. Compute the loss of a held-out batch with these weights, and its gradient with respect to the
       strengths.
    3. Update the strengths by this gradient: Adam with amsgrad, --lambda_lr, never below 0.
    4. Make the step, with the new strengths.

    The look-ahead uses the batch of the step, so the gradient of its loss is computed once. Only
    the step's rows depend on the strengths; therefore the held-out batch has the same users. Active
    users are in both more often. Each user gets a positive from data.tune, and
    negatives that are neither in data.tune nor in training.

    --lambda_grad truncated: the gradient of the batch's loss is a constant, and the look-ahead
    computes only the rows that the held-out batch reads. full: the whole step is differentiated,
    with the model's `after_step` (OneBP: the moving aggregation). For a model without `after_step`
    both derivatives are equal: the weights before the step, and with them the gradient of the
    loss, do not depend on the strengths.

    Source: Chen et al., lambdaOpt: learn to regularize recommender models in finer levels, KDD
    2019, arXiv 1905.11596. There the losses of both batches are BPR; here they are --loss.
    """

    def __init__(self, model, by_row):
        self.model, self.decay = model, 0.0
        data, args = model.data, model.args
        self.full, self.clip = args.lambda_grad == "full", args.lambda_clip
        self.lr, self.interval = args.lambda_lr, args.lambda_interval

        # Held-out batches: positives from data.tune, negatives in neither matrix.
        known = data.train + data.tune
        self.sampler = find(SAMPLERS, args.sampler)(known, args, model.generator, data.tune)

        # The strengths, the key of each table's, and whether each row of a table has its own.
        trained = model.trained_weights()
        tables = {name: table for name, table in trained.items() if name in ("user", "item")}
        self.strengths, self.strengths_key = zero_strengths(args.granularity, tables)
        self.has_rows = {name: name in args.granularity.split("+") for name in tables}
        self.by_row = by_row and all(self.has_rows.values())
        self.optimizer = Adam(self.strengths, l2=0.0, by_row=self.by_row, amsgrad=True, low=0.0)

        # The mean strength of each frequency group after each epoch, (epochs, groups).
        counts = training_counts(data)
        groups = {name: GROUPS if self.has_rows[name] else 1 for name in tables}
        self.groups = {name: frequency_groups(counts[name], groups[name]) for name in tables}
        self.trajectory = {
            name: torch.zeros(0, groups[name], dtype=torch.float64) for name in tables
        }

    def strength_of(self, name):
        """The strengths of a table, (R or 1, D or 1)."""
        return self.strengths[self.strengths_key[name]]

    def held_out(self, number, batch):
        if number % self.interval:
            return None
        self.optimizer.prepare(self.lr)
        return self.sampler.positives_of(batch[0])

    def add_to_gradients(self, gradients, trained, constant, place, batch, held_out):
        index = self.model.rows_of(*batch)
        penalties = self.penalty_gradients(trained, place, len(batch[0]))
        strengths, moments = {}, {}
        for name in penalties:
            key = self.strengths_key[name]
            strengths[key], moments[key], _ = self.optimizer.fetch(key, index[name])
        if held_out is not None:
            hypergradient = self.hypergradient(
                strengths, gradients, penalties, trained, constant, place, batch, held_out
            )
            # Clip the norm over all strengths as torch.nn.utils.clip_grad_norm_ does.
            norm = sum(slope.square().sum() for slope in hypergradient.values()).sqrt()
            scale = (self.clip / (norm + 1e-6)).clamp(max=1)
            for name, slope in hypergradient.items():
                fetched = strengths[name], moments[name], place.get(name)
                step = index.get(name), *fetched, scale * slope
                strengths[name] = self.optimizer.step(name, *step)
            self.optimizer.count()
        return gradients | {
            name: gradients[name] + strengths[self.strengths_key[name]] * penalty
            for name, penalty in penalties.items()
        }

    def hypergradient(
        self, strengths, gradients, penalties, trained, constant, place, batch, held_out
    ):
        """The gradient of the loss of `held_out` after a step on `batch`, w.r.t. the strengths.

        strengths: {name: strengths of the rows of `trained`}
        gradients: of the loss of `batch`, with respect to `trained`
        penalties: what `penalty_gradients` returned
        trained, constant, place, batch, held_out: as in `add_to_gradients`

        Returns {name: gradient}, like `strengths`.
        """
        model, optimizer = self.model, self.model.optimizer
        batch_rows, held_out_rows = model.rows_of(*batch), model.rows_of(*held_out)

        def look_ahead(strengths, gradients, name, rows):
            """The weights (n, D) of rows (n,) of a table after the step; of all rows for None."""
            # The rows' places in `trained`, and whether the batch reads them at all.
            position, in_batch = rows, None
            if rows is not None:
                position, in_batch = optimizer.locate(name, batch_rows[name], rows)
            # Their gradients: of the loss and of the penalty, 0 for a row that the batch lacks.
            gradient = take(gradients[name], position)
            if name in penalties:
                strength = strengths[self.strengths_key[name]]
                strength = take(strength, position) if self.has_rows[name] else strength
                gradient = gradient + strength * take(penalties[name], position)
            if in_batch is not None:
                gradient = gradient * in_batch[:, None]
            # The step that the optimizer would make.
            return optimizer.update(*optimizer.read(name, rows), gradient)[0]

        def held_out_loss(strengths):
            """The loss of the held-out batch after the step."""
            step_gradients, fixed, new_weights = gradients, constant, {}
            places = dict(held_out_rows)
            if self.full:
                # Differentiate the whole step: the gradient of its loss, the new weights, and
                # `after_step`, which changes copies of the constant tables.
                step_gradients = torch.func.grad(model.loss)(trained, constant, place, *batch)
                rows = {
                    name: batch_rows[name].flatten() if optimizer.by_row else None
                    for name in trained
                }
                stepped = {
                    name: look_ahead(strengths, step_gradients, name, rows[name])
                    for name in trained
                }
                new_weights = {name: table.clone() for name, table in constant.items()}
                fixed = {}
                model.after_step(stepped | new_weights, place, *batch)
            # The new weights for the loss: of the rows that the held-out batch reads if the
            # encoder can compute with rows, else of whole tables.
            for name in trained:
                rows = held_out_rows[name].flatten() if model.encoder.by_row else None
                new_weights[name] = look_ahead(strengths, step_gradients, name, rows)
                if rows is not None:
                    order = torch.arange(len(rows), device=rows.device)
                    places[name] = order.view(held_out_rows[name].shape)
            return model.loss(new_weights, fixed, places, *held_out)

        return value_and_gradients(held_out_loss, strengths)[1]

    def finish_epoch(self):
        """Record the mean strengths of the groups."""
        self.optimizer.finish()
        for name, group in self.groups.items():
            means = group_means(self.strength_of(name), group, self.trajectory[name].shape[1])
            self.trajectory[name] = torch.cat([self.trajectory[name], means[None]])

    @staticmethod
    def write_outputs(data, folder, checkpoint):
        state = load_checkpoint(checkpoint)["model"]["regularizer"]
        return {"strengths": write_files(state, data, folder)}

    def state_dict(self):
        return {
            "strengths": self.strengths,
            "owner": self.strengths_key,  # the name in files
            "trajectory": dict(self.trajectory),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state):
        """Continue from what `state_dict` returned. Raises ValueError for another shape."""
        for name, strength in self.strengths.items():
            overwrite(strength, state["strengths"][name])
        for name, means in self.trajectory.items():
            found = state["trajectory"][name]  # (E, G)
            self.trajectory[name] = means.new_empty(len(found), means.shape[1])
            overwrite(self.trajectory[name], found)
        self.optimizer.load_state_dict(state["optimizer"])


def zero_strengths(granularity, tables):
    """Make strengths of 0 for the tables.

    granularity: names joined by "+", see regularizers/flags.py
    tables: {name: (R, D)}

    Returns the strengths, {key: (R or 1, D or 1)}, and the key of each table's strengths,
    {name: key}: the table's name, or "all" where the tables share their strengths.
    """
    kinds = granularity.split("+")
    shared = granularity in ("global", "dimension")
    strengths, keys = {}, {}
    for name, table in tables.items():
        rows = len(table) if name in kinds else 1
        columns = table.shape[1] if "dimension" in granularity else 1
        keys[name] = "all" if shared else name
        strength = torch.zeros(rows, columns, dtype=table.dtype, device=table.device)
        strengths.setdefault(keys[name], strength)
    return strengths, keys
