"""Two-tower models: the update rules OneBP and TwoBP, around an encoder, a sampler and a loss.

Shapes: B batch, N negatives, U users, I items, D dim.
"""

import logging

import torch
from torch.nn import functional

from errors import UserError
from evaluate import METRICS, DotProduct, Ranking, popularity_encodings
from losses import Batch
from optimizer import Adam, merge, value_and_gradients
from registry import ENCODERS, LOSSES, SAMPLERS, find
from utils import compiles, cpu_threads, make_generator

log = logging.getLogger("onebp")

# Seconds that compiling saves, per step and per number: in the rows that a step touches, in the tables. Seconds that it
# takes the first time. Round figures, from steps on 100k, 1M and Gowalla on a core of an AMD EPYC.
SAVED_BY_ROW, SAVED_BY_TABLE, WAIT = 2e-9, 1e-9, 25


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


class Recommender:
    """What the loop in train.py asks of a model; base of all models here, which score every item for every user.

    The names of its `metrics`, of the one to `monitor` (larger is better), of the few to show (`headline`); `identity`,
    `protocol`, `device`, `steps_per_epoch`; `start_training`, `train_epoch`, `evaluate`, `baselines`, `state_dict`,
    `load_weights`. A subclass has besides them `encodings` (or `scorer`) and `load_state_dict`.
    """

    metrics = METRICS
    monitor = "Recall@20"
    headline = ("Recall@20", "NDCG@20")
    identifying = ("model",)  # the flags that a checkpoint must have in common with this model to be taken over

    def __init__(self, data, args, device):
        """data: Interactions; args: the flags of parse.py; device: where everything lives and is computed."""
        self.data, self.args, self.device = data, args, device
        self.generator = make_generator(args.seed, device)
        # Ranked are all items that the user has not in training, nor, when testing, in validation.
        self.rankings = {"test": Ranking(data.test, [data.train, data.valid], device)}
        if data.valid.nnz:
            self.rankings["valid"] = Ranking(data.valid, [data.train], device)

    @property
    def identity(self):
        """What a checkpoint must have in common with this model to be taken over."""
        flags = {name: getattr(self.args, name) for name in self.identifying}
        return {**flags, "dataset": self.data.name, "digest": self.data.digest}

    @property
    def protocol(self):
        """How `evaluate` ranks, for summary.json."""
        return {
            "ranking": "full: all items but the user's training items (and validation items when testing)",
            "ties": "lower item index first",
            "users_evaluated": len(self.rankings["test"].users),
        }

    def start_training(self, state=None):
        """Call before the first `train_epoch`. state: what `state_dict` returned, to go on from there.

        A continuation decides what the run decided that it continues.
        """
        if state:
            self.load_state_dict(state)

    def load_weights(self, state):
        """Of what `state_dict` returned, take over what ranking needs: all, unless a subclass knows better."""
        self.load_state_dict(state)

    def scorer(self):
        """What scores every item for a user, like evaluate.DotProduct."""
        return DotProduct(*self.encodings())

    def encode_history(self, users, items, count):
        """Encodings of users who were not in training. Raises UserError: that needs a rule, which OneBP has."""
        raise UserError(f"--history moves new users as OneBP moves its own; {self.args.model} has no such rule")

    def evaluate(self, part):
        """METRICS on `part` ("valid" or "test"), by name."""
        return self.rankings[part].evaluate(self.scorer())

    def baselines(self):
        """Test metrics of rankings that need no training, by name, to set a result beside."""
        popularity = DotProduct(*popularity_encodings(self.data.train, self.device))
        return {"Popularity": self.rankings["test"].evaluate(popularity)}


class TwoBP(Recommender):
    """The ordinary two-tower model: both towers by backpropagation, with Adam."""

    identifying = ("model", "encoder", "dim", "layers", "similarity")
    trains_users = True

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.encoder = find(ENCODERS, args.encoder)(data.train, args, self.generator)
        self.weights = dict(self.encoder.named_parameters())

    def start_training(self, state=None):
        """Build what only training needs: the sampler, the optimizer, the compiled step. state: see Recommender."""
        args = self.args
        self.loss_of = find(LOSSES, args.loss)
        self.sampler = find(SAMPLERS, args.sampler)(self.data.train, args, self.generator)
        trained = {name: w for name, w in self.weights.items() if self.trains_users or not name.startswith("user")}
        touched = {"user": args.batch_size, "item": args.batch_size * (1 + self.sampler.drawn)}  # rows in a step
        decided = state["compiled"] if state and args.compile == "auto" else self.repays_compiling(trained, touched)
        self.compiled = decided and compiles(self.device)
        # A row by itself costs about twice what it costs in one sweep over the whole table.
        by_row = self.compiled and self.encoder.by_row and not args.l2
        by_row = by_row and 2 * sum(touched[name] for name in trained) < sum(len(table) for table in trained.values())
        self.optimizer = Adam(trained, args.l2, by_row)
        self.mark = torch.zeros(self.data.shape[0], dtype=torch.int64, device=self.device)  # (U,) scratch
        if self.compiled:
            # By the row, memory is the limit: what was read from afar is kept for its second use, not read again.
            options = {"realize_reads_threshold": 1} if by_row and self.device.type == "cpu" else {}
            self.compiled_step = torch.compile(self.train_step, fullgraph=True, dynamic=False, options=options)
        super().start_training(state)

    def repays_compiling(self, trained, touched):
        """Whether to compile the training step: as --compile says; for auto, when the whole run repays the wait."""
        if self.args.compile == "off":
            return False
        if len(self.sampler.users) < self.args.batch_size:
            log.info("the training step is not compiled: no batch is whole")
            return False
        if not self.encoder.compiles:
            log.info("the training step is not compiled: the compiler does not take the encoder %s", self.args.encoder)
            return False
        rows, tables = sum(touched.values()), sum(map(len, trained.values()))
        step = (SAVED_BY_ROW * rows + SAVED_BY_TABLE * tables) * self.args.dim
        saved = step * self.args.epochs * len(self.sampler)
        if self.args.compile == "auto" and saved < WAIT:
            log.info(
                "the training step is not compiled: that takes %d s the first time, to save about %.0f s", WAIT, saved
            )
            return False
        return True

    @property
    def steps_per_epoch(self):
        return len(self.sampler)

    def train_epoch(self, lr, on_step):
        """One sweep over the training interactions at learning rate `lr`; `on_step()` after each batch.

        Returns the mean loss per interaction, nan once a weight is not finite. The device is read once, at the end.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with cpu_threads(self.args.threads):
            for users, items, drawn in self.sampler.epoch():
                self.optimizer.prepare(lr)
                # The last, smaller batch is not worth a compilation of its own.
                whole = self.compiled and len(users) == self.args.batch_size
                loss = (self.compiled_step if whole else self.train_step)(users, items, drawn)
                total.add_(loss, alpha=len(users))
                on_step()
            self.optimizer.finish()
        # What the last step did to the weights is in no loss yet.
        finite = torch.stack([weights.isfinite().all() for weights in self.weights.values()]).all()
        return torch.where(finite, total / len(self.sampler.users), torch.nan).item()

    def train_step(self, users, items, drawn):
        """One step on users (B,), items (B,) and what the sampler drew for them. Returns the loss before the step."""
        index = {"user": users, "item": self.sampler.candidates(items, drawn)}  # (B,) and (candidates, B)
        trained, constant, place = {}, {}, dict(index)
        for name, table in self.weights.items():
            if name not in self.optimizer.tables:
                constant[name] = table
            elif name in index:
                trained[name], place[name] = self.optimizer.fetch(name, index[name])
            else:
                trained[name] = table
        loss, gradients = value_and_gradients(self.loss, trained, constant, place, users, drawn)
        for name, gradient in gradients.items():
            self.optimizer.step(name, index.get(name), trained[name], place.get(name), gradient)
        self.optimizer.count()
        return loss

    def loss(self, trained, constant, place, users, drawn):
        """Mean loss of a batch; weights by name; place: where in them its users and candidates are."""
        p, q = self.encoder(trained | constant, place["user"], place["item"])  # (B, D), (candidates, B, D)
        if not self.trains_users:
            p = p.detach()
        p, q = self.comparable(p, q)
        positive, negative = self.sampler.scores(p / self.args.temperature, q, drawn)
        return self.loss_of(Batch(users, p, q[0], positive, negative), self.args)

    def comparable(self, *encodings):
        """Encodings (..., D) whose inner product is the similarity."""
        if self.args.similarity == "cosine":
            return tuple(functional.normalize(encoding, dim=-1) for encoding in encodings)
        return encodings

    def encodings(self):
        """All users' and all items' encodings, (U, D) and (I, D); their inner product is what ranks."""
        return self.comparable(*self.encoder(self.weights))

    def state_dict(self):
        """All that decides the rest of the run, as tensors and plain types. The tensors are live ones, no copies."""
        return {
            "encoder": self.encoder.state_dict(),
            "compiled": self.compiled,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned; the flags (learning rate, l2) stay this run's."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.load_weights(state)
        if len(state["generator"]) == len(self.generator.get_state()):
            self.generator.set_state(state["generator"])
        else:  # each kind of device has its own
            log.warning("warning: the checkpoint is of another kind of device; the random numbers from here on are new")

    def load_weights(self, state):
        """Of what `state_dict` returned, take over what ranking needs."""
        self.encoder.load_state_dict(state["encoder"])


class OneBP(TwoBP):
    """One backpropagation: the item tower is trained like TwoBP's; the users get no gradient and are moved instead."""

    trains_users = False

    def train_step(self, users, items, drawn):
        """TwoBP's step on the items alone, then the move of the batch's users. Returns the loss before the step."""
        loss = super().train_step(users, items, drawn)
        _, positives = self.encoder(self.weights, items=items)  # (B, D), just updated
        moving_aggregation(self.encoder.user, users, positives, self.args.beta, self.args.aggregation, self.mark)
        return loss

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
        mark = torch.zeros(count, dtype=torch.int64, device=self.device)
        for _ in range(self.args.passes):
            moving_aggregation(encodings, users, positives, self.args.beta, "sequential", mark)
        return self.comparable(encodings)[0]
