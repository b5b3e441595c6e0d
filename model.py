"""Two-tower models in the order of the paper: encoders, losses, update rules (OneBP and TwoBP).

Negative sampling, the paper's fourth module, is in sampler.py.
Shapes: B batch, N negatives, U users, I items, D dim, L layers.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cli.errors import UserError
from cli.registry import ENCODERS, LOSSES, SAMPLERS, find
from engine.tables import SparseProduct, Weights, csr_tensor, look_up, shared_places
from recommender import BatchTrained

# Encoders: from the weights of a model to the encodings of users and items.


class Encoder(Weights):
    """Base of encoders: a table of users (U, D) and of items (I, D), Xavier-normal at the start.

    `forward` takes the weights as an argument, {name: tensor}: the loss is differentiated by it.
    """

    by_row = False  # whether an encoding is computed from its own row of the table alone
    compiles = True  # whether torch.compile takes it whole
    users_are_rows = True  # whether a user's encoding under OneBP is the user's row of the table

    def __init__(self, data, args, generator, towers=("user", "item")):
        """data: Interactions
        args: the flags
        generator: on the device where the weights are to be
        towers: those that backpropagation trains, for encoders that have more than the tables
        """
        super().__init__()
        counts = data.counts()  # of all processes; data.shape is this one's
        for name, count in zip(("user", "item"), data.shape, strict=True):
            table = torch.empty(count, args.dim, device=generator.device)
            std = math.sqrt(2 / (counts[f"{name}s"] + args.dim))
            nn.init.normal_(table, std=std, generator=generator)
            self.register(name, table, of=name, per=name)

    def forward(self, weights, users=None, items=None):
        """Encodings (*shape, D) of `users` and `items`, index tensors of any shape (None: all)."""
        raise NotImplementedError


class MF(Encoder):
    """Matrix factorisation: an encoding is a row of its table."""

    by_row = True

    def forward(self, weights, users=None, items=None):
        return look_up(weights["user"], users), look_up(weights["item"], items)


class MLP(Encoder):
    """Towers of --layers linear layers, with ReLU between them, over the rows of the tables.

    Under OneBP users have no tower: the moving aggregation fills their table with encodings.
    """

    def __init__(self, data, args, generator, towers=("user", "item")):
        super().__init__(data, args, generator)
        device = generator.device
        for tower in towers:
            matrices = torch.empty(args.layers, args.dim, args.dim, device=device)
            for matrix in matrices.unbind():
                nn.init.xavier_normal_(matrix, generator=generator)
            biases = torch.zeros(args.layers, args.dim, device=device)
            self.register(f"{tower}_matrices", matrices, of=tower)  # (L, D, D)
            self.register(f"{tower}_biases", biases, of=tower)  # (L, D)

    def forward(self, weights, users=None, items=None):
        return self.tower(weights, "user", users), self.tower(weights, "item", items)

    def tower(self, weights, name, index):
        """The encodings (*shape, D) of users or of items."""
        x = look_up(weights[name], index)  # (*shape, D)
        if f"{name}_matrices" not in weights:
            return x
        layers = zip(
            weights[f"{name}_matrices"].unbind(), weights[f"{name}_biases"].unbind(), strict=True
        )
        for number, (matrix, bias) in enumerate(layers):
            x = (x.relu() if number else x) @ matrix + bias
        return x


class LightGCN(Encoder):
    """LightGCN: the mean of --layers + 1 layers.

    The first layer is the tables. In each other one a row is the weighted sum of its neighbours in
    the layer before: a user u and an item i that interacted in training are neighbours, with the
    weight 1 / sqrt(|N_u| |N_i|). Source: He et al., arXiv 2002.02126.
    """

    compiles = False  # torch.compile does not take sparse products
    users_are_rows = False

    def __init__(self, data, args, generator, towers=("user", "item")):
        super().__init__(data, args, generator)
        self.layers, train = args.layers, data.train
        # 1 / sqrt(degree), (U,) and (I,)
        degrees = (np.diff(matrix.indptr) for matrix in (train, train.tocsc()))
        of_users, of_items = (1 / np.sqrt(np.maximum(degree, 1)) for degree in degrees)
        # The weight of each pair, then the graph (U, I) and its transpose (I, U).
        weighted = train.tocoo().astype(np.float32)
        users, items = weighted.coords
        weighted.data = (of_users[users] * of_items[items]).astype(np.float32)
        matrices = weighted.tocsr(), weighted.T.tocsr()
        self.graph = [
            csr_tensor(m.indptr, m.indices, m.data, m.shape, generator.device) for m in matrices
        ]

    def forward(self, weights, users=None, items=None):
        from_items, from_users = self.graph  # (U, I) and (I, U)
        user, item = user_sum, item_sum = weights["user"], weights["item"]  # (U, D), (I, D)
        for _ in range(self.layers):
            user, item = (
                SparseProduct.apply(item, from_items, from_users),
                SparseProduct.apply(user, from_users, from_items),
            )
            user_sum, item_sum = user_sum + user, item_sum + item
        count = self.layers + 1
        return look_up(user_sum / count, users), look_up(item_sum / count, items)


# Losses: functions of a Batch and of the flags. Each is a mean over the interactions of the batch,
# so it does not grow with the batch. Scores are similarities divided by --temperature. A negative
# with the score -inf is masked: it does not count.


class Batch(NamedTuple):
    """What a loss is computed from."""

    users: Tensor  # (B,) indices
    p: Tensor  # (B, D) encodings of the users
    q: Tensor  # (B, D) encodings of the positives
    positive: Tensor  # (B,) scores s(u, i)
    negative: Tensor  # (N, B) scores s(u, j)


def info_nce(batch, args):
    """InfoNCE: -log( e^s(u,i) / (e^s(u,i) + sum_j e^s(u,j)) ).

    Source: van den Oord et al., arXiv 1807.03748.
    """
    scores = torch.cat([batch.positive[None], batch.negative])  # (1 + N, B)
    return -scores.log_softmax(0)[0].mean()


def bpr(batch, args):
    """BPR: mean over the negatives of -log sigmoid(s(u,i) - s(u,j)).

    Source: Rendle et al., arXiv 1205.2618.
    """
    return functional.softplus(batch.negative - batch.positive).mean()


def bce(batch, args):
    """Binary cross-entropy: -log sigmoid(s(u,i)) - mean_j log(1 - sigmoid(s(u,j))).

    Positives and negatives have the same weight.
    """
    return functional.softplus(-batch.positive).mean() + functional.softplus(batch.negative).mean()


def bsl(batch, args):
    """Bilateral softmax: -log mean_i' e^s(u,i') + gamma * log mean_j e^s(u,j).

    The i' are the positives of u in the batch. gamma (--gamma) is the ratio of the paper's
    temperatures for negatives and positives. Source: Wu et al., arXiv 2312.12882, with the means as
    in the authors' code.
    """
    same = batch.users == batch.users[:, None]  # (B, B)
    positive = batch.positive.expand_as(same).masked_fill(~same, -torch.inf)
    positive = positive.logsumexp(1) - same.sum(1).log()  # (B,)
    # If all negatives of a user are masked, zeros take their place: e^0 has mean 1 and no gradient.
    count = (batch.negative > -torch.inf).sum(0)  # (B,)
    masked = batch.negative.masked_fill(count == 0, 0.0)
    negative = masked.logsumexp(0) - count.where(count > 0, len(masked)).log()
    return (args.gamma * negative - positive).mean()


def direct_au(batch, args):
    """Alignment and uniformity: |p - q|^2 + gamma * (l(users) + l(positives)) / 2.

    Encodings have length 1. l(x) = log mean e^(-2 |x - x'|^2) over pairs of places in the batch. It
    needs no negatives. Source: Wang et al., arXiv 2206.12811.
    """
    p, q = functional.normalize(batch.p, dim=1), functional.normalize(batch.q, dim=1)
    uniformity = sum(_uniformity(x) for x in (p, q)) / 2
    return (p - q).square().sum(1).mean() + args.gamma * uniformity


def _uniformity(x):
    """log mean e^(-2 |x_a - x_b|^2) over a < b, for x (B, D) of length 1."""
    if len(x) < 2:
        return x.new_zeros(())
    exponent = 4 * (x @ x.T) - 4  # (B, B), as |x_a - x_b|^2 = 2 - 2 <x_a, x_b>
    pairs = torch.ones_like(exponent, dtype=torch.bool).triu(1)
    return exponent.masked_fill(~pairs, -torch.inf).flatten().logsumexp(0) - pairs.sum().log()


# Update rules.


def moving_aggregation(user_encodings, users, item_encodings, beta, how):
    """Move the users of a batch towards their items: p_u <- beta * p_u + (1 - beta) * q_i.

    user_encodings (U, D): changed in place
    users (B,): users of the batch, some of them several times
    item_encodings (B, D): encodings of their positives
    beta: weight of the old encoding
    how: what a user who occurs several times does
      mean: one move towards the mean of the user's items in the batch, whatever their order
      sequential: one move after the other, in batch order
      last: only the user's last item in the batch counts

    Source: Chen & Wang, arXiv 2403.18227 (there the indexed assignment, `last`).
    """
    # All three rules are p_u <- keep * p_u + sum_b weight_b * q_b.
    place = shared_places(torch.empty_like(user_encodings[:, 0], dtype=torch.int64), users)  # (B,)
    count = torch.zeros_like(item_encodings[:, 0])
    count.index_add_(0, place, torch.ones_like(count))
    count = count.index_select(0, place)  # (B,) how often the user occurs
    if how == "mean":
        keep, weight = beta, (1 - beta) / count
    elif how == "sequential":
        later = repeats_to_come(users).to(count.dtype)
        keep, weight = (beta**count)[:, None], (1 - beta) * beta**later
    else:
        keep, weight = beta, (1 - beta) * (repeats_to_come(users) == 0).to(count.dtype)
    pull = torch.zeros_like(item_encodings)  # (B, D)
    pull.index_add_(0, place, weight[:, None] * item_encodings)
    moved = keep * user_encodings.index_select(0, users) + pull.index_select(0, place)  # (B, D)
    # lambdaopt differentiates this. Repeats of a user write the same encoding: only one of them may
    # pass the gradient on.
    if moved.requires_grad:
        kept = place == torch.arange(len(place), device=place.device)
        moved = torch.where(kept[:, None], moved, moved.detach())
    user_encodings[users] = moved


def repeats_to_come(users):
    """How often the user at each place occurs after it: users (B,) -> (B,) int64."""
    users, order = users.sort(stable=True)
    last = torch.searchsorted(users, users, right=True) - 1  # (B,) the last place of the user's run
    later = last - torch.arange(len(users), device=users.device)
    return torch.empty_like(order).index_copy_(0, order, later)


class TwoBP(BatchTrained):
    """The ordinary two-tower model: both towers are trained by backpropagation."""

    identifying = ("model", "encoder", "dim", "layers", "similarity")
    towers = ("user", "item")  # those that backpropagation trains

    def make_encoder(self):
        encoder = find(ENCODERS, self.args.encoder)
        return encoder(self.data, self.args, self.generator, self.towers)

    def make_sampler(self):
        sampler = find(SAMPLERS, self.args.sampler)(self.data.train, self.args, self.generator)
        if self.data.update:
            sampler.learn(self.data.update.new, self.args.replay)
        return sampler

    def make_loss(self):
        """The loss, a function of a Batch and of the flags."""
        return find(LOSSES, self.args.loss)

    def start_training(self, state=None):
        self.loss_of = self.make_loss()
        super().start_training(state)

    def trained_weights(self):
        owner = self.encoder.owner
        return {name: table for name, table in self.weights.items() if owner[name] in self.towers}

    def rows_of(self, users, items, *drawn):
        candidates = self.sampler.candidates(items, *drawn)
        return {"user": users, "item": candidates}  # (B,), (C, B or more)

    def loss(self, trained, constant, place, users, items, *drawn):
        # (B, D) and (C, B or more, D)
        p, q = self.encoder(trained | constant, place["user"], place["item"])
        if "user" in constant:  # OneBP: no gradient reaches the items through the users either
            p = p.detach()
        p, q = self.for_inner_product(p, q)
        positive, negative = self.sampler.scores(p / self.args.temperature, q, *drawn)
        return self.loss_of(Batch(users, p, q[0, : len(p)], positive, negative), self.args)

    def for_inner_product(self, *encodings):
        """Encodings (..., D) -> encodings whose inner product is the similarity."""
        if self.args.similarity == "cosine":
            return tuple(functional.normalize(encoding, dim=-1) for encoding in encodings)
        return encodings

    def encodings(self):
        return self.for_inner_product(*self.encoder(self.weights))

    def mean_user(self, trained):
        p, q = self.encoder(self.weights)  # (U, D), (I, D)
        return self.for_inner_product(p[trained].mean(0), q)[0]

    def rows_of_new_users(self, users, items, count, trained):
        """Rows (count, D) of the table of users, see OneBP.encode_history: the mean user's."""
        return self.encoder.user[trained].mean(0).repeat(count, 1)


class OneBP(TwoBP):
    """One backpropagation: only the item tower is trained. Users get no gradient and are moved."""

    towers = ("item",)

    def after_step(self, weights, place, users, items, *drawn):
        """Move the users of the batch towards their positives, which were just updated."""
        _, positives = self.encoder(weights, items=place["item"][0, : len(users)])  # (B, D)
        moving_aggregation(weights["user"], users, positives, self.args.beta, self.args.aggregation)

    def encode_history(self, users, items, count, trained):
        """Encodings (count, D) of users who were not in training, from their interactions.

        users (H,): numbers from 0 to count - 1, in the order of time
        items (H,)
        trained (U,): bool, whether a user of the data set has training interactions

        A user starts as the mean of the trained users, and is moved as in training, one interaction
        after the other, --passes times through the history. Items stay. Raises UserError if users
        are not rows of the encoder's table.
        """
        if not self.encoder.users_are_rows:
            raise UserError(
                "--history needs an --encoder like MF; "
                f"{self.args.encoder} computes users from the graph"
            )
        return self.for_inner_product(self.rows_of_new_users(users, items, count, trained))[0]

    def rows_of_new_users(self, users, items, count, trained):
        _, positives = self.encoder(self.weights, items=items)  # (H, D)
        rows = super().rows_of_new_users(users, items, count, trained)  # (count, D)
        for _ in range(self.args.passes):
            moving_aggregation(rows, users, positives, self.args.beta, "sequential")
        return rows
