"""Encoders, the towers of a model: from its weights to the encodings of users and items.

Shapes: U users, I items, D dim, B batch, N negatives. An encoder is built from (train, args, generator): the training
part, csr_array (U, I); the flags; the generator, on the device where the weights shall live. Its parameters `user`
(U, D) and `item` (I, D) are the input tables; what else the users' tower has is called user_..., the items' item_....
It computes from weights that are handed to it, by name, for gradients are taken by them (see optimizer.Adam).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cli.errors import UserError
from cli.registry import ENCODERS, LOSSES, SAMPLERS, find
from distributed.collectives import OWN, all_reduce_int
from engine.tables import SparseProduct, Weights, csr_tensor, merge, rows
from recommender import BatchTrained


class Encoder(Weights):
    """Base: the two tables, Xavier-normal at the start."""

    by_row = False  # whether an encoding depends on its own row of the tables alone, and on no other weight
    compiles = True  # whether torch.compile takes it whole
    users_are_rows = True  # whether under OneBP a user's encoding is the user's row of the table

    def __init__(self, train, args, generator):
        super().__init__()
        for name, count in zip(("user", "item"), train.shape, strict=True):
            everywhere = all_reduce_int(count) if name == OWN else count
            table = torch.empty(count, args.dim, device=generator.device)
            std = math.sqrt(2 / (everywhere + args.dim))
            self.register(name, nn.init.normal_(table, std=std, generator=generator))

    def forward(self, weights, users=None, items=None):
        """Encodings of `users` and of `items`, index tensors of any shape (None: all): two tensors (*shape, D)."""
        raise NotImplementedError


class MF(Encoder):
    """Matrix factorisation: an encoding is a row of its table."""

    by_row = True

    def forward(self, weights, users=None, items=None):
        return rows(weights["user"], users), rows(weights["item"], items)


class MLP(Encoder):
    """Towers of --layers linear layers, with ReLU between them, over the rows of the tables.

    The users of OneBP have no tower: their table holds what the items' tower put out, moved.
    """

    def __init__(self, train, args, generator):
        super().__init__(train, args, generator)
        device = generator.device
        for tower in ("user", "item") if args.model == "TwoBP" else ("item",):
            matrices = [torch.empty(args.dim, args.dim, device=device) for _ in range(args.layers)]
            for matrix in matrices:
                nn.init.xavier_normal_(matrix, generator=generator)
            self.register(f"{tower}_matrices", torch.stack(matrices))  # (L, D, D)
            self.register(
                f"{tower}_biases", torch.zeros(args.layers, args.dim, device=device)
            )  # (L, D)

    def forward(self, weights, users=None, items=None):
        return self.tower(weights, "user", users), self.tower(weights, "item", items)

    def tower(self, weights, name, index):
        """The encodings (*shape, D) of one kind, users or items."""
        x = rows(weights[name], index)  # (*shape, D)
        if f"{name}_matrices" not in weights:
            return x
        layers = zip(
            weights[f"{name}_matrices"].unbind(), weights[f"{name}_biases"].unbind(), strict=True
        )
        for number, (matrix, bias) in enumerate(layers):
            x = (x.relu() if number else x) @ matrix + bias
        return x


class LightGCN(Encoder):
    """LightGCN: the mean of --layers + 1 layers, the first the tables, each other one the neighbours' sum of the last.

    In that sum a user u and an item i that interacted in training give each other 1 / sqrt(|N_u| |N_i|) of their row.
    Source: He et al., arXiv 2002.02126.
    """

    compiles = False  # torch.compile does not take sparse products
    users_are_rows = False

    def __init__(self, train, args, generator):
        super().__init__(train, args, generator)
        self.layers = args.layers
        scale = [
            1 / np.sqrt(np.maximum(np.diff(matrix.indptr), 1)) for matrix in (train, train.tocsc())
        ]  # (U,), (I,)
        weighted = train.tocoo().astype(np.float32)
        weighted.data = (scale[0][weighted.coords[0]] * scale[1][weighted.coords[1]]).astype(
            np.float32
        )
        matrices = weighted.tocsr(), weighted.T.tocsr()
        self.graph = [
            csr_tensor(m.indptr, m.indices, m.data, m.shape, generator.device) for m in matrices
        ]

    def forward(self, weights, users=None, items=None):
        from_items, from_users = self.graph  # (U, I) and (I, U)
        layer = total = weights["user"], weights["item"]  # (U, D), (I, D)
        for _ in range(self.layers):
            layer = (
                SparseProduct.apply(layer[1], from_items, from_users),
                SparseProduct.apply(layer[0], from_users, from_items),
            )
            total = total[0] + layer[0], total[1] + layer[1]
        return tuple(
            rows(part / (self.layers + 1), index)
            for part, index in zip(total, (users, items), strict=True)
        )


class Batch(NamedTuple):
    """What a loss can look at."""

    users: Tensor  # (B,) indices
    p: Tensor  # (B, D) encodings of the users
    q: Tensor  # (B, D) encodings of the positives
    positive: Tensor  # (B,) scores s(u, i)
    negative: Tensor  # (N, B) scores s(u, j)


def info_nce(batch, args):
    """InfoNCE: -log( e^s(u,i) / (e^s(u,i) + sum_j e^s(u,j)) ). Source: van den Oord et al., arXiv 1807.03748."""
    scores = torch.cat([batch.positive[None], batch.negative])  # (1 + N, B)
    return -scores.log_softmax(0)[0].mean()


def bpr(batch, args):
    """BPR: -log sigmoid(s(u,i) - s(u,j)), mean over the negatives. Source: Rendle et al., arXiv 1205.2618."""
    return functional.softplus(batch.negative - batch.positive).mean()


def bce(batch, args):
    """Binary cross-entropy: -log sigmoid(s(u,i)) - mean_j log(1 - sigmoid(s(u,j))): the two classes weigh the same."""
    return functional.softplus(-batch.positive).mean() + functional.softplus(batch.negative).mean()


def bsl(batch, args):
    """Bilateral softmax: -log mean_i' e^s(u,i') + gamma * log mean_j e^s(u,j), i' being u's positives in the batch.

    gamma (--gamma) is the ratio of the paper's temperatures for negatives and positives. Source: Wu et al., arXiv
    2312.12882, with the means as in the authors' code.
    """
    same = batch.users == batch.users[:, None]  # (B, B)
    positive = (
        batch.positive.expand_as(same).masked_fill(~same, -torch.inf).logsumexp(1)
        - same.sum(1).log()
    )
    count = (batch.negative > -torch.inf).sum(0)  # (B,)
    # Where all are masked, zeros in their place: the mean of e^0, without a gradient.
    masked = batch.negative.masked_fill(count == 0, 0.0)
    negative = masked.logsumexp(0) - count.where(count > 0, len(masked)).log()
    return (args.gamma * negative - positive).mean()


def direct_au(batch, args):
    """Alignment and uniformity: |p - q|^2 + gamma * (l(users) + l(positives)) / 2, all encodings at length 1.

    l(x) = log mean e^(-2 |x - x'|^2) over the pairs of different places in the batch. Source: Wang et al., arXiv
    2206.12811. It needs no negatives.
    """
    p, q = functional.normalize(batch.p, dim=1), functional.normalize(batch.q, dim=1)
    uniformity = sum(_uniformity(x) for x in (p, q)) / 2
    return (p - q).square().sum(1).mean() + args.gamma * uniformity


def _uniformity(x):
    """log mean e^(-2 |x_a - x_b|^2) over a < b. x (B, D), of length 1: |x_a - x_b|^2 = 2 - 2 <x_a, x_b>."""
    if len(x) < 2:
        return x.new_zeros(())
    exponent = 4 * (x @ x.T) - 4  # (B, B)
    others = torch.ones_like(exponent, dtype=torch.bool).triu(1)
    return exponent.masked_fill(~others, -torch.inf).flatten().logsumexp(0) - others.sum().log()


def moving_aggregation(user_encodings, users, item_encodings, beta, how):
    """Move the users of a batch towards the items they interacted with: p_u <- beta * p_u + (1 - beta) * q_i, in place.

    user_encodings (U, D); users (B,), any of them several times; item_encodings (B, D), the positives'. `how` says what
    a repeated user does:
      mean: one move towards the mean of the user's items in the batch; the order in the batch does not matter;
      sequential: the moves one after the other in batch order;
      last: only the user's last item in the batch counts.
    Source: Chen & Wang, arXiv 2403.18227 (there the indexed assignment, `last`).
    """
    # All three are p_u <- keep * p_u + sum_b weight_b * q_b.
    place = merge(torch.empty_like(user_encodings[:, 0], dtype=torch.int64), users)  # (B,)
    count = torch.zeros_like(item_encodings[:, 0]).index_add_(
        0, place, torch.ones_like(item_encodings[:, 0])
    )
    count = count.index_select(0, place)  # (B,) how often the user occurs
    if how == "mean":
        keep, weight = beta, (1 - beta) / count
    elif how == "sequential":
        keep, weight = (
            (beta**count)[:, None],
            (1 - beta) * beta ** repeats_to_come(users).to(count.dtype),
        )
    else:
        keep, weight = beta, (1 - beta) * (repeats_to_come(users) == 0).to(count.dtype)
    pull = torch.zeros_like(item_encodings).index_add_(
        0, place, weight[:, None] * item_encodings
    )  # (B, D)
    moved = keep * user_encodings.index_select(0, users) + pull.index_select(0, place)  # (B, D)
    if (
        moved.requires_grad
    ):  # for lambdaopt; of the repeats of a user, which write the same, one passes the gradient on
        moved = torch.where(
            (place == torch.arange(len(place), device=place.device))[:, None], moved, moved.detach()
        )
    user_encodings[users] = moved


def repeats_to_come(users):
    """users (B,) -> (B,) int64: how often the same user occurs after this place in the batch."""
    users, order = users.sort(stable=True)
    last = (
        torch.searchsorted(users, users, right=True) - 1
    )  # (B,) of the user's run in the sorted batch
    return torch.empty_like(order).index_copy_(
        0, order, last - torch.arange(len(users), device=users.device)
    )


class TwoBP(BatchTrained):
    """The ordinary two-tower model: both towers by backpropagation, with Adam."""

    identifying = ("model", "encoder", "dim", "layers", "similarity")

    def make_encoder(self):
        return find(ENCODERS, self.args.encoder)(self.data.train, self.args, self.generator)

    def make_sampler(self):
        return find(SAMPLERS, self.args.sampler)(self.data.train, self.args, self.generator)

    def make_loss(self):
        """A function of a losses.Batch and of the flags, see losses.py."""
        return find(LOSSES, self.args.loss)

    def start_training(self, state=None):
        self.loss_of = self.make_loss()
        super().start_training(state)

    def touched(self, users, items, *drawn):
        return {
            "user": users,
            "item": self.sampler.candidates(items, *drawn),
        }  # (B,) and (*, B or more)

    def loss(self, trained, constant, place, users, items, *drawn):
        p, q = self.encoder(
            trained | constant, place["user"], place["item"]
        )  # (B, D), (*, B or more, D)
        if "user" in constant:
            p = p.detach()
        p, q = self.comparable(p, q)
        positive, negative = self.sampler.scores(p / self.args.temperature, q, *drawn)
        return self.loss_of(Batch(users, p, q[0, : len(p)], positive, negative), self.args)

    def comparable(self, *encodings):
        """Encodings (..., D) whose inner product is the similarity."""
        if self.args.similarity == "cosine":
            return tuple(functional.normalize(encoding, dim=-1) for encoding in encodings)
        return encodings

    def encodings(self):
        """All users' and all items' encodings, (U, D) and (I, D); their inner product is what ranks."""
        return self.comparable(*self.encoder(self.weights))


class OneBP(TwoBP):
    """One backpropagation: the item tower is trained like TwoBP's; the users get no gradient and are moved instead."""

    def trained(self):
        return {name: table for name, table in self.weights.items() if not name.startswith("user")}

    def after_step(self, weights, place, users, items, *drawn):
        """Move the batch's users."""
        _, positives = self.encoder(
            weights, items=place["item"][0, : len(users)]
        )  # (B, D), just updated
        moving_aggregation(weights["user"], users, positives, self.args.beta, self.args.aggregation)

    def encode_history(self, users, items, count):
        """Encodings (count, D) of users who were not in training, by their interactions in the order of time.

        users (H,), from 0 to count - 1; items (H,). Each starts as the mean of the trained users and makes the moves of
        training one after the other, --passes times through the history; the items stay. Raises UserError where the
        encoder does more than that.
        """
        if not self.encoder.users_are_rows:
            raise UserError(
                f"--history needs an --encoder like MF; {self.args.encoder} computes users from the graph"
            )
        _, positives = self.encoder(self.weights, items=items)  # (H, D)
        encodings = self.encoder.user.mean(0).repeat(count, 1)  # (count, D)
        for _ in range(self.args.passes):
            moving_aggregation(encodings, users, positives, self.args.beta, "sequential")
        return self.comparable(encodings)[0]
