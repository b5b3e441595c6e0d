"""What the training loop asks of a model, and the base of models that are trained by batches.

Shapes: B batch, U users, I items, D dim.
"""

from functools import partial

import torch

from cli.errors import UserError
from cli.metrics import monitor_of
from cli.registry import RANKINGS, REGULARIZERS, find
from distributed import agreement, collectives
from distributed.optimizer import optimizer_of_ranks, reads_few_rows
from distributed.schedule import Schedule
from engine import compiling
from engine.adam import BETA2, Adam
from engine.optimizer import SGD
from engine.tables import value_and_gradients
from evaluate import DotProduct, popularity_encodings
from utils import cpu_threads, make_generator, restore_generator


class Recommender:
    """What the loop asks of a model; base of all models, which score every item for every user.

    A subclass implements `train_epoch`, `steps_per_epoch`, `encodings` (or `scorer`), `state_dict`
    and `load_state_dict`, and overrides methods whose default does not fit.
    """

    # Flags that must be equal in a run and in a checkpoint that it takes over.
    identifying = ("model",)

    def __init__(self, data, args, device):
        """data: as the model's family loads it; args: parse.Flags; device: where all is computed"""
        self.data, self.args, self.device = data, args, device
        self.generator = make_generator(agreement.rank_seed(args.seed), device)
        self.evaluator = self.evaluator_class(args)
        self.evaluators = self.make_evaluators()
        sizes = self.evaluators["test"].sizes.items()
        self.sizes = {name: collectives.all_reduce_int(size) for name, size in sizes}

    @staticmethod
    def evaluator_class(args):
        """The evaluate.Evaluator that the flags ask for."""
        return find(RANKINGS, args.ranking).choose(args.metrics, args.cutoffs, monitor_of(args))

    def make_evaluators(self):
        """{split: its evaluator} for test and, if there is one, valid."""
        return self.evaluator.of_splits(self.data, self.device, self.args.data_dir)

    @property
    def identity(self):
        """{name: value} that must be equal in this run and in a checkpoint that it takes over."""
        flags = {name: getattr(self.args, name) for name in self.identifying}
        return flags | {"dataset": self.data.name, "digest": self.data.digest}

    @property
    def protocol(self):
        """How `evaluate` works, {topic: text or number} for summary.json."""
        return self.evaluators["test"].protocol | self.data.protocol | self.sizes

    def start_training(self, state=None):
        """Prepare the first `train_epoch`. state: from `state_dict`, to go on from, or None."""
        if state is not None:
            self.load_state_dict(state)

    @property
    def steps_per_epoch(self):
        """Steps in an epoch, for the progress bar."""
        raise NotImplementedError

    def train_epoch(self, lr, on_step):
        """Train one epoch at learning rate `lr`; call `on_step()` after each step.

        Returns the mean loss per interaction, nan if the weights are not finite.
        """
        raise NotImplementedError

    def chosen_flags(self):
        """{flag: value} that the model chose by itself, for flags `auto`; state_dict has them."""
        return {}

    def state_dict(self):
        """All that decides the rest of the run: tensors (live ones, no copies) and plain types."""
        raise NotImplementedError

    def load_state_dict(self, state):
        """Take over what `state_dict` returned. Learning rate and l2 stay those of the flags."""
        raise NotImplementedError

    def load_weights(self, state):
        """Take over from `state_dict` only what evaluation needs. Default: all."""
        self.load_state_dict(state)

    def encodings(self):
        """Encodings of all users (U, D) and of all items (I, D); inner products are the scores."""
        raise NotImplementedError

    def scorer(self):
        """Scores every item for a user, see evaluate.DotProduct."""
        return DotProduct(*self.encodings())

    def mean_user(self, trained):
        """Encoding (D,) of users without training: the mean of the `trained` ones, bool (U,)."""
        return self.encodings()[0][trained].mean(0)

    def encode_history(self, users, items, count, trained):
        """Encodings of users who were not in training. Raises UserError: only OneBP has them."""
        rule = f"{self.args.model} has no such rule"
        raise UserError(f"--history moves new users as OneBP moves its own; {rule}")

    def evaluate(self, split):
        """{metric: float} on the split "valid" or "test"."""
        return self.metrics_of(self.scorer(), split)

    def metrics_of(self, scorer, split):
        """{metric: float} of a scorer on a split, over the users of all processes."""
        evaluator = self.evaluators[split]
        return evaluator.metrics_from(*map(collectives.all_reduce_, evaluator.sums(scorer)))

    def baselines(self):
        """{name: test metrics} of models that need no training, to set a result beside."""
        encodings = popularity_encodings(self.data.train, self.device)
        return {"Popularity": self.metrics_of(DotProduct(*encodings), "test")}

    def final_evaluation(self, checkpoint, folder):
        """Evaluate what is evaluated once, after training. Returns entries for summary.json.

        checkpoint: file of the best epoch; folder: for intermediate states, or None
        """
        return {}

    def final_evaluation_done(self, folder):
        """Whether an earlier process finished `final_evaluation`."""
        return True

    def write_epoch(self, folder, row):
        """Append a row of metrics.csv to files of its own in `folder`."""

    def rewind_outputs(self, folder, rows):
        """Before a continuation: keep the first `rows` rows of these files."""

    def write_outputs(self, folder, checkpoint):
        """Write files of its own into `folder`. checkpoint: the last. Returns {topic: paths}."""
        return {}


class BatchTrained(Recommender):
    """A model that is trained by batches: an encoder's weights, a sampler of batches, a loss.

    A subclass implements `loss` and
      make_encoder(): the engine.tables.Weights to train
      make_sampler(): the sampler.Batches to train on
      rows_of(*batch): {table: its rows that a batch reads, an index tensor, or None for all}
    and `trained_weights` if some weights get no gradient, `after_step` if a step does more.
    """

    beta2 = BETA2  # what a step of Adam keeps of the second moments

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.encoder = self.make_encoder()
        self.weights = dict(self.encoder.named_parameters())
        collectives.broadcast_(self.shared_weights().values())

    def trained_weights(self):
        """{name: tensor} of the weights that get a gradient."""
        return self.weights

    def shared_weights(self):
        """{name: tensor} of the weights that all processes have in common."""
        per_user = self.encoder.per_user()
        return {name: table for name, table in self.weights.items() if name not in per_user}

    def decayed_weights(self):
        """Names of the weights that weight decay shrinks; None: all."""
        return None

    def rows_per_step(self):
        """{table: number of its rows that a step reads}."""
        return {"user": self.args.batch_size, "item": self.sampler.item_rows_per_step}

    def loss(self, trained, constant, place, *batch):
        """Mean loss of a batch, a scalar tensor.

        trained, constant: {name: weights}, with and without gradient
        place: {table: where in its weights the rows from `rows_of` are}
        """
        raise NotImplementedError

    def after_step(self, weights, place, *batch):
        """Change weights in place after the optimizer moved them. place: see `loss`."""

    def weighted_loss(self, *arguments):
        """This process's share of the mean loss over the whole batch, see `loss`."""
        return self.optimizer.share * self.loss(*arguments)

    def start_training(self, state=None):
        """Build what only training needs: sampler, regularizer, optimizer, the compiled step."""
        self.train_on(self.make_sampler())
        trained, rows = self.trained_weights(), self.rows_per_step()
        tables = {name: len(table) for name, table in trained.items() if name in rows}

        # A continuation compiles if the run that it continues did. An update begins undecided.
        decided = state and "compiled" in state and self.args.compile == "auto"
        wanted = state["compiled"] if decided else self.repays_compiling(rows, tables)
        self.compiled = collectives.all_true(wanted and compiling.compiles(self.device))

        # Adam visits single rows if a step reads few of them, and if the regularizer allows it.
        same_items = self.sampler.same_items_on_all_ranks
        by_row = self.compiled and self.encoder.by_row and self.args.optimizer == "Adam"
        by_row &= reads_few_rows(tables, rows, self.encoder.per_user(), same_items)
        by_row = collectives.all_true(by_row)
        self.regularizer = find(REGULARIZERS, self.args.regularizer)(self, by_row)
        self.optimizer = self.make_optimizer(trained, rows)

        self.step = self.make_step(lambda part: part)
        if self.compiled:
            prepare = compiling.step_compiler(self.regularizer.by_row, self.device)
            self.compiled_step = self.make_step(prepare)
        super().start_training(state)

    def train_on(self, sampler):
        """From now on, train on the batches of `sampler`."""
        self.sampler, self.schedule = sampler, Schedule(sampler)

    def repays_compiling(self, rows, tables):
        """Whether to compile the training step, see engine.compiling.repays."""
        obstacle = None if self.encoder.compiles else "the compiler does not take sparse products"
        if not self.schedule.whole(0):
            obstacle = "no batch is whole"
        steps = self.args.last_epoch * len(self.schedule)
        read, size = (sum(lengths.values()) * self.args.dim for lengths in (rows, tables))
        return compiling.repays(self.args.compile, obstacle, read, size, steps)

    def make_optimizer(self, trained, rows):
        """The engine.optimizer.Optimizer of the `trained` weights; rows: see rows_per_step."""
        by_row, per_user = self.regularizer.by_row, self.encoder.per_user()
        adam = partial(Adam, by_row=by_row, beta2=self.beta2)
        make = {"Adam": adam, "SGD": SGD}[self.args.optimizer]
        make = partial(make, l2=self.regularizer.decay, decayed=self.decayed_weights())
        return optimizer_of_ranks(make, trained, per_user, rows, by_row, self.schedule)

    def make_step(self, prepare):
        """`train_step`, compiled. prepare: compiles a function, or returns it as it is.

        In one process the step is one part. In several, what they exchange lies between the parts.
        """
        if collectives.world_size() == 1:
            return prepare(self.train_step)
        parts = self.forward_backward, self.apply_gradients, self.after_update
        return partial(self.train_step, parts=[prepare(part) for part in parts])

    @property
    def steps_per_epoch(self):
        return len(self.schedule)

    def train_epoch(self, lr, on_step):
        """See Recommender. The device is read once, at the end."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with cpu_threads(self.args.threads):
            for number, batch in enumerate(self.schedule.batches()):
                self.optimizer.prepare(lr)
                held_out = self.regularizer.held_out(number, batch)
                # The last, smaller batch is not worth a compilation of its own.
                whole = self.compiled and self.schedule.whole(number)
                loss = (self.compiled_step if whole else self.step)(batch, held_out)
                # At the end of an epoch a batch is empty if other processes have more interactions.
                if len(batch[0]):
                    total.add_(loss, alpha=sum(self.schedule.sizes(number)))
                on_step()
            self.optimizer.finish()
        self.regularizer.finish_epoch()
        # No loss has seen yet what the last step did to the weights.
        extremes = torch.stack([torch.stack(table.aminmax()) for table in self.weights.values()])
        mean = total / self.schedule.interactions
        return collectives.all_reduce_(mean.where(extremes.isfinite().all(), torch.nan)).item()

    def train_step(self, batch, held_out=None, parts=None):
        """Make one step on a batch of the sampler. Returns the loss before the step.

        held_out: a batch for the regularizer, or None; parts: the compiled parts, see make_step
        """
        parts = parts or (self.forward_backward, self.apply_gradients, self.after_update)
        forward_backward, apply_gradients, after_update = parts
        self.optimizer.announce(self.rows_of(*batch))
        loss, gradients, fetched = forward_backward(batch, held_out)
        gradients = self.optimizer.exchange(gradients, self.schedule.draw_ahead)
        apply_gradients(batch, gradients, fetched)
        self.optimizer.publish()
        after_update(batch)
        return loss

    def forward_backward(self, batch, held_out=None):
        """Returns the loss, {name: gradient}, and what `apply_gradients` needs besides."""
        index = self.rows_of(*batch)
        trained, moments, constant, place = {}, {}, {}, dict(index)
        for name, table in self.weights.items():
            if name not in self.optimizer.tables:
                constant[name] = table
                continue
            trained[name], moments[name], position = self.optimizer.fetch(name, index.get(name))
            if name in index:
                place[name] = position
        loss, gradients = value_and_gradients(self.weighted_loss, trained, constant, place, *batch)
        about = trained, constant, place, batch, held_out
        return loss, self.regularizer.add_to_gradients(gradients, *about), (trained, moments, place)

    def apply_gradients(self, batch, gradients, fetched):
        """Move the trained weights."""
        index, (trained, moments, place) = self.rows_of(*batch), fetched
        for name, gradient in gradients.items():
            about = trained[name], moments[name], place.get(name)
            self.optimizer.step(name, index.get(name), *about, gradient)
        self.optimizer.count()

    def after_update(self, batch):
        """Do what a step does besides moving them."""
        self.after_step(self.weights, self.rows_of(*batch), *batch)

    def evaluate(self, split):
        agreement.check_tables_equal(self.shared_weights())
        return super().evaluate(split)

    def write_outputs(self, folder, checkpoint):
        regularizer = find(REGULARIZERS, self.args.regularizer)
        return regularizer.write_outputs(self.data, folder, checkpoint)

    def state_dict(self):
        return {
            "encoder": self.encoder.state_dict(),
            "compiled": self.compiled,
            "optimizer": self.optimizer.state_dict(),
            "regularizer": self.regularizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state["optimizer"])
        self.regularizer.load_state_dict(state.get("regularizer", {}))  # the oldest have none
        self.load_weights(state)
        restore_generator(self.generator, state["generator"])

    def load_weights(self, state):
        self.encoder.load_state_dict(state["encoder"])
