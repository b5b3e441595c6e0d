"""Two-tower models: the update rules OneBP and TwoBP, around an encoder, a sampler and a loss.

Shapes: B batch, N negatives, U users, I items, D dim.
"""

import torch
from torch.nn import functional

from errors import UserError
from losses import Batch
from optimizer import merge
from recommender import Backpropagated
from registry import ENCODERS, LOSSES, SAMPLERS, find


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
    count = torch.zeros_like(item_encodings[:, 0]).index_add_(0, place, torch.ones_like(item_encodings[:, 0]))
    count = count.index_select(0, place)  # (B,) how often the user occurs
    if how == "mean":
        keep, weight = beta, (1 - beta) / count
    elif how == "sequential":
        keep, weight = (beta**count)[:, None], (1 - beta) * beta ** repeats_to_come(users).to(count.dtype)
    else:
        keep, weight = beta, (1 - beta) * (repeats_to_come(users) == 0).to(count.dtype)
    pull = torch.zeros_like(item_encodings).index_add_(0, place, weight[:, None] * item_encodings)  # (B, D)
    moved = keep * user_encodings.index_select(0, users) + pull.index_select(0, place)  # (B, D)
    if moved.requires_grad:  # for lambdaopt; of the repeats of a user, which write the same, one passes the gradient on
        moved = torch.where((place == torch.arange(len(place), device=place.device))[:, None], moved, moved.detach())
    user_encodings[users] = moved


def repeats_to_come(users):
    """users (B,) -> (B,) int64: how often the same user occurs after this place in the batch."""
    users, order = users.sort(stable=True)
    last = torch.searchsorted(users, users, right=True) - 1  # (B,) of the user's run in the sorted batch
    return torch.empty_like(order).index_copy_(0, order, last - torch.arange(len(users), device=users.device))


class TwoBP(Backpropagated):
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
        return {"user": users, "item": self.sampler.candidates(items, *drawn)}  # (B,) and (*, B or more)

    def loss(self, trained, constant, place, users, items, *drawn):
        p, q = self.encoder(trained | constant, place["user"], place["item"])  # (B, D), (*, B or more, D)
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
        _, positives = self.encoder(weights, items=place["item"][0, : len(users)])  # (B, D), just updated
        moving_aggregation(weights["user"], users, positives, self.args.beta, self.args.aggregation)

    def encode_history(self, users, items, count):
        """Encodings (count, D) of users who were not in training, by their interactions in the order of time.

        users (H,), from 0 to count - 1; items (H,). Each starts as the mean of the trained users and makes the moves of
        training one after the other, --passes times through the history; the items stay. Raises UserError where the
        encoder does more than that.
        """
        if not self.encoder.users_are_rows:
            raise UserError(f"--history needs an --encoder like MF; {self.args.encoder} computes users from the graph")
        _, positives = self.encoder(self.weights, items=items)  # (H, D)
        encodings = self.encoder.user.mean(0).repeat(count, 1)  # (count, D)
        for _ in range(self.args.passes):
            moving_aggregation(encodings, users, positives, self.args.beta, "sequential")
        return self.comparable(encodings)[0]
