"""Two-tower models: encoders, the loss, and the update rules OneBP and TwoBP.

Shapes: B batch, N negatives, U users, I items, D dim.
"""

import logging

import torch
from torch import nn
from torch.nn import functional as F

from evaluate import METRICS, Ranking, popularity_encodings
from sampler import Sampler
from utils import make_generator

log = logging.getLogger("onebp")


class MF(nn.Module):
    """Matrix factorisation: a user's or an item's encoding is a row of a table, Xavier-normal at the start."""

    def __init__(self, users, items, dim, generator):
        super().__init__()
        self.user = nn.Parameter(torch.empty(users, dim, device=generator.device))  # P (U, D)
        self.item = nn.Parameter(torch.empty(items, dim, device=generator.device))  # Q (I, D)
        for table in (self.user, self.item):
            nn.init.xavier_normal_(table, generator=generator)

    def forward(self):
        """All encodings: (U, D) and (I, D)."""
        return self.user, self.item


def info_nce(positive, negative, temperature):
    """InfoNCE, mean over the batch: -log( e^{s(u,i)/t} / (e^{s(u,i)/t} + sum_j e^{s(u,j)/t}) ).

    positive (B,): s(u,i); negative (B, N): s(u,j); temperature: t > 0. Source: van den Oord et al., arXiv 1807.03748.
    """
    scores = torch.cat([positive[:, None], negative], dim=1) / temperature  # (B, 1 + N)
    return -F.log_softmax(scores, dim=1)[:, 0].mean()


@torch.no_grad()
def moving_aggregation(user_encodings, users, item_encodings, beta, how):
    """Move the users of a batch towards the items they interacted with: p_u <- beta * p_u + (1 - beta) * q_i, in place.

    user_encodings (U, D); users (B,), any of them several times; item_encodings (B, D), the positives'. `how` says what
    a repeated user does:
      mean: one move towards the mean of the user's items in the batch; the order in the batch does not matter;
      sequential: the moves one after the other in batch order;
      last: only the user's last item in the batch counts.
    Source: Chen & Wang, arXiv 2403.18227 (there the indexed assignment, `last`).
    """
    # All three are p_u <- keep * p_u + sum_b weight_b * q_b. Sorted by user, stably, repeats stand together, in order.
    users, order = users.sort(stable=True)  # (B,)
    starts = torch.ones_like(users)
    starts[1:] = users[1:] != users[:-1]
    group = starts.cumsum(0) - 1  # (B,) which distinct user
    size = torch.zeros_like(users).index_add_(0, group, torch.ones_like(users))  # (B,) by group, then zeros
    later = size.cumsum(0)[group] - 1 - torch.arange(len(users), device=users.device)  # (B,) repeats still to come
    count = size[group].to(user_encodings.dtype)  # (B,) how often the user occurs
    if how == "mean":
        keep, weight = torch.full_like(count, beta), (1 - beta) / count
    elif how == "sequential":
        keep, weight = beta**count, (1 - beta) * beta ** later.to(count.dtype)
    else:
        keep, weight = torch.full_like(count, beta), (1 - beta) * (later == 0).to(count.dtype)
    pull = torch.zeros_like(item_encodings).index_add_(0, group, weight[:, None] * item_encodings[order])  # (B, D)
    # Every repeat of a user writes the same value.
    user_encodings[users] = keep[:, None] * user_encodings[users] + pull[group]


class TwoBP:
    """The ordinary two-tower model: both towers by backpropagation, Adam, InfoNCE with uniform negatives.

    What the loop in train.py asks of a model: the names of its `metrics`, of the one to `monitor` (larger is better),
    of the few to show (`headline`); `identity`, `protocol`, `generator`, `steps_per_epoch`; `train_epoch`, `evaluate`,
    `baselines`, `state_dict`, `load_state_dict`.
    """

    metrics = METRICS
    monitor = "Recall@20"
    headline = ("Recall@20", "NDCG@20")
    trains_users = True

    def __init__(self, data, args, device):
        """data: Interactions; args: the flags of parse.py; device: where towers, batches and rankings live."""
        self.args = args
        self.generator = make_generator(args.seed, device)
        self.encoder = ENCODERS[args.encoder](*data.shape, args.dim, self.generator)
        self.sampler = Sampler(data.train, args.batch_size, args.N, self.generator)
        self.encoder.user.requires_grad_(self.trains_users)
        parameters = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=args.lr, weight_decay=args.l2, fused=True)
        self.data = data
        # Ranked are all items that the user has not in training, nor, when testing, in validation.
        self.rankings = {"test": Ranking(data.test, [data.train, data.valid], device)}
        if data.valid.nnz:
            self.rankings["valid"] = Ranking(data.valid, [data.train], device)

    @property
    def identity(self):
        """What a checkpoint must have in common with this model to be continued."""
        flags = {name: getattr(self.args, name) for name in ("model", "encoder", "dim")}
        return {**flags, "dataset": self.data.name, "digest": self.data.digest}

    @property
    def protocol(self):
        """How `evaluate` ranks, for summary.json."""
        return {
            "ranking": "full: all items but the user's training items (and validation items when testing)",
            "ties": "lower item index first",
            "users_evaluated": len(self.rankings["test"].users),
        }

    @property
    def steps_per_epoch(self):
        return len(self.sampler)

    def train_epoch(self, lr, on_step):
        """One sweep over the training interactions at learning rate `lr`; `on_step()` after each batch.

        Returns the mean loss per interaction, nan once a weight is not finite. The device is read once, at the end.
        """
        self.optimizer.param_groups[0]["lr"] = lr
        total = torch.zeros((), dtype=torch.float64, device=self.generator.device)
        for users, items, negatives in self.sampler.epoch():
            total += self.train_step(users, items, negatives) * len(users)
            on_step()
        # What the last step did to the weights is in no loss yet.
        finite = torch.stack([weights.isfinite().all() for weights in self.encoder.parameters()]).all()
        return torch.where(finite, total / len(self.sampler.users), torch.nan).item()

    def train_step(self, users, items, negatives):
        """One step on users (B,), items (B,), negatives (B, N). Returns the loss before the step, detached."""
        user_encodings, item_encodings = self.encoder()
        p = user_encodings.index_select(0, users)  # (B, D)
        candidates = torch.cat([items[:, None], negatives], dim=1)  # (B, 1 + N)
        # (B * (1 + N), D) -> (B, 1 + N, D)
        q = item_encodings.index_select(0, candidates.flatten()).unflatten(0, candidates.shape)
        scores = torch.einsum("bd,bnd->bn", p, q)  # (B, 1 + N)
        loss = info_nce(scores[:, 0], scores[:, 1:], self.args.temperature)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def evaluate(self, part):
        """METRICS on `part` ("valid" or "test"), by name."""
        with torch.no_grad():
            return self.rankings[part].evaluate(*self.encoder())

    def baselines(self):
        """Test metrics of rankings that need no training, by name, to set a result beside."""
        popularity = popularity_encodings(self.data.train, self.generator.device)
        return {"Popularity": self.rankings["test"].evaluate(*popularity)}

    def state_dict(self):
        """All that decides the rest of the run, as tensors and plain types. The tensors are live ones, no copies."""
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned; the flags (learning rate, l2) stay this run's."""
        for index, weights in enumerate(self.optimizer.param_groups[0]["params"]):
            moments = [state["optimizer"][index][name] for name in ("exp_avg", "exp_avg_sq")]
            if any(moment.shape != weights.shape for moment in moments):  # the fused Adam would write beyond them
                raise ValueError("the optimizer's moments have another shape")
        self.encoder.load_state_dict(state["encoder"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        if len(state["generator"]) == len(self.generator.get_state()):
            self.generator.set_state(state["generator"])
        else:  # each kind of device has its own
            log.warning("warning: the checkpoint is of another kind of device; the random numbers from here on are new")


class OneBP(TwoBP):
    """One backpropagation: the item tower is trained like TwoBP's; the users get no gradient and are moved instead."""

    trains_users = False

    def train_step(self, users, items, negatives):
        """TwoBP's step on the items alone, then the move of the batch's users. Returns the loss before the step."""
        loss = super().train_step(users, items, negatives)
        with torch.no_grad():
            positives = self.encoder()[1].index_select(0, items)  # (B, D), just updated
        moving_aggregation(self.encoder.user, users, positives, self.args.beta, self.args.aggregation)
        return loss


ENCODERS = {"MF": MF}
MODELS = {"OneBP": OneBP, "TwoBP": TwoBP}
