"""Two-tower models: encoders, the loss, and the update rules OneBP and TwoBP.

Shapes: B batch, N negatives, U users, I items, D dim.
"""

import logging

import torch
from torch import nn

from evaluate import METRICS, Ranking, popularity_encodings
from optimizer import Adam, merge, value_and_gradients
from sampler import Sampler
from utils import compiles, cpu_threads, make_generator

log = logging.getLogger("onebp")

# Seconds that compiling saves, per step and per number: in the rows that a step touches, in the tables. Seconds that it
# takes the first time. Round figures, measured by benchmarks/runs.py on a core of an AMD EPYC.
SAVED_BY_ROW, SAVED_BY_TABLE, WAIT = 2e-9, 1e-9, 25


class MF(nn.Module):
    """Matrix factorisation: a user's or an item's encoding is a row of a table, Xavier-normal at the start."""

    by_row = True  # an encoding depends on its own row of the weights alone

    def __init__(self, users, items, dim, generator):
        super().__init__()
        self.user = nn.Parameter(torch.empty(users, dim, device=generator.device))  # P (U, D)
        self.item = nn.Parameter(torch.empty(items, dim, device=generator.device))  # Q (I, D)
        for table in (self.user, self.item):
            nn.init.xavier_normal_(table, generator=generator)
            table.requires_grad_(False)  # gradients are taken by the rows that a step uses, see optimizer.Adam

    def forward(self, user, item):
        """Encodings of users and items from the weights by name: all of the tables, or the rows that a step uses."""
        return user, item


def info_nce(positive, negative, temperature):
    """InfoNCE, mean over the batch: -log( e^{s(u,i)/t} / (e^{s(u,i)/t} + sum_j e^{s(u,j)/t}) ).

    positive (B,): s(u,i); negative (N, B): s(u,j); temperature: t > 0. Source: van den Oord et al., arXiv 1807.03748.
    """
    scores = torch.cat([positive[None], negative]) / temperature  # (1 + N, B)
    return -scores.log_softmax(0)[0].mean()


def moving_aggregation(user_encodings, users, item_encodings, beta, how, mark):
    """Move the users of a batch towards the items they interacted with: p_u <- beta * p_u + (1 - beta) * q_i, in place.

    user_encodings (U, D); users (B,), any of them several times; item_encodings (B, D), the positives'; mark (U,):
    scratch. `how` says what a repeated user does:
      mean: one move towards the mean of the user's items in the batch; the order in the batch does not matter;
      sequential: the moves one after the other in batch order;
      last: only the user's last item in the batch counts.
    Source: Chen & Wang, arXiv 2403.18227 (there the indexed assignment, `last`).
    """
    # All three are p_u <- keep * p_u + sum_b weight_b * q_b.
    place = merge(mark, users)  # (B,)
    count = torch.zeros_like(item_encodings[:, 0]).index_add_(0, place, torch.ones_like(item_encodings[:, 0]))
    count = count.index_select(0, place)  # (B,) how often the user occurs
    if how == "mean":
        keep, weight = beta, (1 - beta) / count
    elif how == "sequential":
        keep, weight = (beta**count)[:, None], (1 - beta) * beta ** repeats_to_come(users).to(count.dtype)
    else:
        keep, weight = beta, (1 - beta) * (repeats_to_come(users) == 0).to(count.dtype)
    pull = torch.zeros_like(item_encodings).index_add_(0, place, weight[:, None] * item_encodings)  # (B, D)
    # Every repeat of a user writes the same value.
    user_encodings[users] = keep * user_encodings.index_select(0, users) + pull.index_select(0, place)


def repeats_to_come(users):
    """users (B,) -> (B,) int64: how often the same user occurs after this place in the batch."""
    users, order = users.sort(stable=True)
    last = torch.searchsorted(users, users, right=True) - 1  # (B,) of the user's run in the sorted batch
    return torch.empty_like(order).index_copy_(0, order, last - torch.arange(len(users), device=users.device))


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
        self.weights = dict(self.encoder.named_parameters())
        self.sampler = Sampler(data.train, args.batch_size, args.N, self.generator)
        trained = {name: table for name, table in self.weights.items() if self.trains_users or name != "user"}
        touched = {"user": args.batch_size, "item": args.batch_size * (1 + args.N)}  # rows in a step
        self.compiled = self.repays_compiling(trained, touched)
        # A row by itself costs about twice what it costs in one sweep over the whole table.
        fewer = 2 * sum(touched[name] for name in trained) < sum(len(table) for table in trained.values())
        by_row = self.compiled and self.encoder.by_row and not args.l2 and fewer
        self.optimizer = Adam(trained, args.l2, by_row)
        self.mark = torch.zeros(data.shape[0], dtype=torch.int64, device=device)  # (U,) scratch
        if self.compiled:
            # By the row, memory is the limit: what was read from afar is kept for its second use, not read again.
            options = {"realize_reads_threshold": 1} if by_row and device.type == "cpu" else {}
            self.compiled_step = torch.compile(self.train_step, fullgraph=True, dynamic=False, options=options)
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
        total = torch.zeros((), dtype=torch.float64, device=self.generator.device)
        with cpu_threads(self.args.threads):
            for users, items, negatives in self.sampler.epoch():
                self.optimizer.prepare(lr)
                # The last, smaller batch is not worth a compilation of its own.
                whole = self.compiled and len(users) == self.args.batch_size
                loss = (self.compiled_step if whole else self.train_step)(users, items, negatives)
                total.add_(loss, alpha=len(users))
                on_step()
            self.optimizer.finish()
        # What the last step did to the weights is in no loss yet.
        finite = torch.stack([weights.isfinite().all() for weights in self.weights.values()]).all()
        return torch.where(finite, total / len(self.sampler.users), torch.nan).item()

    def train_step(self, users, items, negatives):
        """One step on users (B,), items (B,), negatives (N, B). Returns the loss before the step."""
        index = {"user": users, "item": torch.cat([items[None], negatives])}  # (B,) and (1 + N, B)
        trained, constant, place = {}, {}, {}
        for name, table in self.weights.items():
            if name in self.optimizer.tables:
                trained[name], place[name] = self.optimizer.fetch(name, index[name])
            else:
                constant[name], place[name] = table, index[name]
        loss, gradients = value_and_gradients(self.loss, trained, constant, place)
        for name, gradient in gradients.items():
            self.optimizer.step(name, index[name], trained[name], place[name], gradient)
        self.optimizer.count()
        return loss

    def loss(self, trained, constant, place):
        """Mean loss of a batch; weights by name; place: where in them its users and candidates are."""
        users, items = self.encoder(**trained, **constant)
        p = users.index_select(0, place["user"])  # (B, D)
        # ((1 + N) * B, D) -> (1 + N, B, D)
        q = items.index_select(0, place["item"].flatten()).unflatten(0, place["item"].shape)
        scores = (q * p).sum(-1)  # (1 + N, B)
        return info_nce(scores[0], scores[1:], self.args.temperature)

    def repays_compiling(self, trained, touched):
        """Whether to compile the training step: as --compile says; for auto, when the whole run repays the wait.

        A function of the flags and of the sizes alone, so that a continuation decides as the whole run did.
        """
        if self.args.compile == "off":
            return False
        rows, tables = sum(touched.values()), sum(map(len, trained.values()))
        step = (SAVED_BY_ROW * rows + SAVED_BY_TABLE * tables) * self.args.dim
        saved = step * self.args.epochs * len(self.sampler)
        if self.args.compile == "auto" and saved < WAIT:
            log.info(
                "the training step is not compiled: that takes %d s the first time, to save about %.0f s", WAIT, saved
            )
            return False
        return compiles(self.generator.device)

    def evaluate(self, part):
        """METRICS on `part` ("valid" or "test"), by name."""
        return self.rankings[part].evaluate(*self.encoder(**self.weights))

    def baselines(self):
        """Test metrics of rankings that need no training, by name, to set a result beside."""
        popularity = popularity_encodings(self.data.train, self.generator.device)
        return {"Popularity": self.rankings["test"].evaluate(*popularity)}

    def state_dict(self):
        """All that decides the rest of the run, as tensors and plain types. The tensors are live ones, no copies."""
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned; the flags (learning rate, l2) stay this run's."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.encoder.load_state_dict(state["encoder"])
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
        positives = self.encoder(**self.weights)[1].index_select(0, items)  # (B, D), just updated
        moving_aggregation(self.encoder.user, users, positives, self.args.beta, self.args.aggregation, self.mark)
        return loss


ENCODERS = {"MF": MF}
MODELS = {"OneBP": OneBP, "TwoBP": TwoBP}
