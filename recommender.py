"""What the loop in train.py asks of a model, and what all models have in common that are trained by batches.

Shapes: B batch, U users, I items, D dim.
"""

import logging
from functools import partial

import torch

from cli.errors import UserError
from cli.registry import RANKINGS, REGULARIZERS, find
from distributed import agreement, collectives
from distributed.optimizer import FEW, ShardedOptimizer
from distributed.schedule import Schedule
from engine.compiling import SAVED_BY_ROW, SAVED_BY_TABLE, WAIT, compiles
from engine.optimizer import SGD, Adam
from engine.tables import value_and_gradients
from evaluate import DotProduct, popularity_encodings
from utils import cpu_threads, make_generator

log = logging.getLogger("onebp")


class Recommender:
    """What the loop asks of a model; base of all models, which score every item for every user.

    Its `evaluator`, a class of evaluate.py that knows its metrics; `identity`, `protocol`, `device`,
    `steps_per_epoch`; `start_training`, `train_epoch`, `evaluate`, `better`, `baselines`, `state_dict`, `load_weights`.
    A subclass has besides them `encodings` (or `scorer`) and `load_state_dict`.
    """

    # Values of --mode, besides train, that the model has.
    modes = ("evaluate", "recommend", "export")
    identifying = (
        "model",
    )  # the flags that a checkpoint must have in common with this model to be taken over

    def __init__(self, data, args, device):
        """data: Interactions; args: the flags of parse.py; device: where everything lives and is computed."""
        self.data, self.args, self.device = data, args, device
        self.generator = make_generator(agreement.rank_seed(args.seed), device)
        self.evaluator = self.evaluator_class(args)
        self.evaluators = self.make_evaluators()

    @staticmethod
    def evaluator_class(args):
        """What examines a part: a class like evaluate.Ranking."""
        return find(RANKINGS, args.ranking)

    def make_evaluators(self):
        """An evaluator of each part that there is, by its name."""
        data = self.data
        parts = {"test": data.test} | ({"valid": data.valid} if data.counts()["valid"] else {})
        return {
            name: self.evaluator(part, data.seen(name), self.device) for name, part in parts.items()
        }

    @property
    def identity(self):
        """What a checkpoint must have in common with this model to be taken over."""
        flags = {name: getattr(self.args, name) for name in self.identifying}
        return {**flags, "dataset": self.data.name, "digest": self.data.digest}

    @property
    def protocol(self):
        """How `evaluate` works, for summary.json."""
        return self.evaluators["test"].protocol

    def start_training(self, state=None):
        """Call before the first `train_epoch`. state: what `state_dict` returned, to go on from there.

        A continuation decides what the run decided that it continues.
        """
        if state:
            self.load_state_dict(state)

    def load_weights(self, state):
        """Of what `state_dict` returned, take over what evaluation needs: all, unless a subclass knows better."""
        self.load_state_dict(state)

    def scorer(self):
        """What scores every item for a user, like evaluate.DotProduct."""
        return DotProduct(*self.encodings())

    def encode_history(self, users, items, count):
        """Encodings of users who were not in training. Raises UserError: that needs a rule, which OneBP has."""
        raise UserError(
            f"--history moves new users as OneBP moves its own; {self.args.model} has no such rule"
        )

    def evaluate(self, part):
        """The metrics of `part` ("valid" or "test"), by name."""
        return self.evaluators[part].evaluate(self.scorer())

    def better(self, metrics, others):
        """Whether `metrics` are better than `others`, by the one that is monitored."""
        first, second = metrics[self.evaluator.monitor], others[self.evaluator.monitor]
        return first > second if self.evaluator.larger_is_better else first < second

    def concluded(self, folder):
        """Whether `conclude` has nothing left to do. folder: of the run's checkpoints."""
        return True

    def conclude(self, checkpoint, folder):
        """Examine what is examined once, when training is over. Returns what summary.json shall have of it, by name.

        checkpoint: the file to examine; folder: of the run's checkpoints, where to keep what is half done, or None.
        """
        return {}

    def leave(self, folder, checkpoint):
        """Write what a run leaves of this kind of model alone. Returns the files' paths, by what they are about.

        folder: the run's; checkpoint: the file with the state after the last epoch.
        """
        return {}

    def baselines(self):
        """Test metrics of what needs no training, by name, to set a result beside."""
        popularity = DotProduct(*popularity_encodings(self.data.train, self.device))
        return {"Popularity": self.evaluators["test"].evaluate(popularity)}


class BatchTrained(Recommender):
    """A model that is trained by batches: an encoder's weights, a sampler of batches, a loss.

    A subclass has `make_encoder`, `make_sampler`, `touched` and `loss`, `trained` where not all weights are, and
    `after_step` where a step does more than that.
    """

    share = 1.0  # of the interactions of a step, this rank's

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.encoder = self.make_encoder()
        self.weights = dict(self.encoder.named_parameters())
        collectives.broadcast_(self.shared().values())

    def make_encoder(self):
        """An encoders.Encoder, whose weights are trained."""
        raise NotImplementedError

    def make_sampler(self):
        """A sampler.Sampler, whose batches `touched` and `loss` take."""
        raise NotImplementedError

    def trained(self):
        """The weights that get a gradient, by name."""
        return self.weights

    def shared(self):
        """The weights that all ranks have in common, by name."""
        return {name: table for name, table in self.weights.items() if name != collectives.OWN}

    def decayed(self):
        """The names of the weights that weight decay shrinks; None for all."""
        return None

    def rows_read(self):
        """How many rows of a table a step reads, by the table's name."""
        return {"user": self.args.batch_size, "item": self.sampler.reads}

    def touched(self, users, items, *drawn):
        """The rows that a batch reads of a table, index tensors of any shape, by the table's name."""
        raise NotImplementedError

    def loss(self, trained, constant, place, *batch):
        """Mean loss of a batch; weights by name; place: where in them the rows that are `touched` are."""
        raise NotImplementedError

    def weighted_loss(self, *arguments):
        """This rank's part of the mean loss of all ranks' batches. arguments: see `loss`."""
        return self.share * self.loss(*arguments)

    def start_training(self, state=None):
        """Build what only training needs: the sampler, the optimizer, the compiled step. state: see Recommender."""
        args, trained = self.args, self.trained()
        self.train_on(self.make_sampler())
        rows = self.rows_read()
        tables = {name: len(table) for name, table in trained.items() if name in rows}
        decided = (
            state["compiled"]
            if state and args.compile == "auto"
            else self.repays_compiling(rows, tables)
        )
        self.compiled = collectives.agree(decided and compiles(self.device))
        by_row = self.compiled and self.encoder.by_row and args.optimizer == "Adam"
        moved = sum(
            rows[name]
            * (1 if name == collectives.OWN or self.sampler.common else collectives.world_size())
            for name in tables
        )
        by_row = collectives.agree(by_row and FEW * moved < sum(tables.values()))
        self.regularizer = find(REGULARIZERS, args.regularizer)(self, by_row)
        decay, by_row = self.regularizer.decay, self.regularizer.by_row
        decayed = self.decayed()
        if args.optimizer == "SGD":
            make = partial(SGD, l2=decay, decayed=decayed)
        else:
            make = partial(Adam, l2=decay, by_row=by_row, decayed=decayed)
        if collectives.world_size() > 1:
            self.optimizer = ShardedOptimizer(make, trained, rows, by_row, self.schedule)
            self.share = self.optimizer.share
        else:
            self.optimizer = make(trained)
        self.step = self.make_step(lambda part: part)
        if self.compiled:
            # By the row, memory is the limit: what was read from afar is kept for its second use, not read again.
            options = {"realize_reads_threshold": 1} if by_row and self.device.type == "cpu" else {}
            self.compiled_step = self.make_step(
                partial(torch.compile, fullgraph=True, dynamic=False, options=options)
            )
        super().start_training(state)

    def make_step(self, prepare):
        """A function of a batch and of what is held out that makes a step and returns its loss. prepare: its parts."""
        if collectives.world_size() == 1:
            return prepare(self.train_step)
        parts = [prepare(part) for part in (self.look, self.move, self.follow)]
        return lambda batch, held_out=None: self.optimizer.train_step(
            batch, self.touched(*batch), *parts
        )

    def train_on(self, sampler):
        """From here on, train on the batches of `sampler`."""
        self.sampler, self.schedule = sampler, Schedule(sampler)

    def repays_compiling(self, rows, tables):
        """Whether to compile the training step: as --compile says; for auto, when the whole run repays the wait.

        rows: of each table, how many a step reads; tables: how many those have that are trained.
        """
        if self.args.compile == "off":
            return False
        if not self.schedule.whole(0):
            log.info("the training step is not compiled: no batch is whole")
            return False
        if not self.encoder.compiles:
            log.info(
                "the training step is not compiled: the compiler does not take sparse products"
            )
            return False
        step = (
            SAVED_BY_ROW * sum(rows.values()) + SAVED_BY_TABLE * sum(tables.values())
        ) * self.args.dim
        saved = step * self.args.last_epoch * len(self.schedule)
        if self.args.compile == "auto" and saved < WAIT:
            log.info(
                "the training step is not compiled: that takes %d s the first time, to save about %.0f s",
                WAIT,
                saved,
            )
            return False
        return True

    @property
    def steps_per_epoch(self):
        return len(self.schedule)

    def train_epoch(self, lr, on_step):
        """One sweep over the training interactions at learning rate `lr`; `on_step()` after each batch.

        Returns the mean loss per interaction, nan once a weight is not finite. The device is read once, at the end.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with cpu_threads(self.args.threads):
            for number, batch in enumerate(self.schedule.batches()):
                self.optimizer.prepare(lr)
                held_out = self.regularizer.held_out(number, batch)
                # The last, smaller batch is not worth a compilation of its own.
                whole = self.compiled and self.schedule.whole(number)
                loss = (self.compiled_step if whole else self.step)(batch, held_out)
                if len(batch[0]):  # not so at the end of an epoch, where other ranks have more
                    total.add_(loss, alpha=sum(self.schedule.sizes(number)))
                on_step()
            self.optimizer.finish()
        self.regularizer.finish_epoch()
        # What the last step did to the weights is in no loss yet.
        finite = torch.stack(
            [torch.stack(table.aminmax()).isfinite().all() for table in self.weights.values()]
        ).all()
        return collectives.all_reduce_(
            torch.where(finite, total / self.schedule.interactions, torch.nan)
        ).item()

    def train_step(self, batch, held_out=None):
        """One step on a batch of the sampler. Returns the loss before the step. held_out: see regularizer."""
        loss, gradients, fetched = self.look(batch, held_out)
        self.move(batch, gradients, fetched)
        self.follow(batch)
        return loss

    def look(self, batch, held_out=None):
        """The first part of a step. Returns the loss, the gradients by name, and what `move` needs besides."""
        index = self.touched(*batch)
        trained, constant, place = {}, {}, dict(index)
        for name, table in self.weights.items():
            if name not in self.optimizer.tables:
                constant[name] = table
            elif name in index:
                trained[name], place[name] = self.optimizer.fetch(name, index[name])
            else:
                trained[name] = table
        loss, gradients = value_and_gradients(self.weighted_loss, trained, constant, place, *batch)
        gradients = self.regularizer.regularised(
            gradients, trained, constant, place, batch, held_out
        )
        return loss, gradients, (trained, place)

    def move(self, batch, gradients, fetched):
        """The second part: move the weights that are trained."""
        index, (trained, place) = self.touched(*batch), fetched
        for name, gradient in gradients.items():
            self.optimizer.step(name, index.get(name), trained[name], place.get(name), gradient)
        self.optimizer.count()

    def follow(self, batch):
        """The third part: what a step does besides."""
        self.after_step(self.weights, self.touched(*batch), *batch)

    def evaluate(self, part):
        agreement.check_tables_equal(self.shared())
        return super().evaluate(part)

    def after_step(self, weights, place, *batch):
        """What a step does to the weights, in place, once the optimizer has moved them. place: see `loss`."""

    def leave(self, folder, checkpoint):
        return find(REGULARIZERS, self.args.regularizer).leave(self.data, folder, checkpoint)

    def state_dict(self):
        """All that decides the rest of the run, as tensors and plain types. The tensors are live ones, no copies."""
        return {
            "encoder": self.encoder.state_dict(),
            "compiled": self.compiled,
            "optimizer": self.optimizer.state_dict(),
            "regularizer": self.regularizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned; the flags (learning rate, l2) stay this run's."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.regularizer.load_state_dict(
            state.get("regularizer", {})
        )  # those of before the regularizers lack it
        self.load_weights(state)
        if len(state["generator"]) == len(self.generator.get_state()):
            self.generator.set_state(state["generator"])
        else:  # each kind of device has its own, and each rank
            what = "the checkpoint is of another kind of device or number of ranks"
            log.warning("warning: %s; the random numbers from here on are new", what)

    def load_weights(self, state):
        """Of what `state_dict` returned, take over what evaluation needs."""
        self.encoder.load_state_dict(state["encoder"])


class SolvedAtOnce(Recommender):
    """A model that is the solution of an equation: its one epoch has one step."""

    steps_per_epoch = 1

    def train_epoch(self, lr, on_step):
        """Solve; returns the loss at the solution, per interaction."""
        loss = self.solve()
        on_step()
        return loss
