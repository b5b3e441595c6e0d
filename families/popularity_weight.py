"""--popularity_weight k: a model's scores plus k log n_i, for training interactions n_i of item i.

It changes no training. Shapes: U users, I items, D dim, n users of a split.
"""

from functools import partial

import torch

from distributed import collectives
from evaluate import best_variant, masked_scores, popularity_encodings, some_of

# What `auto` chooses from, 0 first. 1 is the k with which log n_i varies over the items as much as
# the scores of a user, so a fraction means the same whatever the scale of the scores.
FRACTIONS = (0, 0.05, -0.05, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 0.5, 0.8, 1.2)
# Users of the validation split, of all processes, on which it chooses: the scores of each are
# ranked once per fraction. And users from which the scale of the scores is estimated.
CHOOSING, SCALING = 3_000, 500


def weighted(model_class):
    """The subclass of a recommender.Recommender whose scores have the popularity added."""
    return type(model_class.__name__, (PopularityWeighted, model_class), {})


class PopularityWeighted:
    """Adds to a Recommender: scores with popularity, and the choice of --popularity_weight auto.

    `encodings`, `mean_user` and `encode_history` stay those of the model: see `scorer`.
    """

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        _, counts = popularity_encodings(data.train, device)
        self.log_counts = counts[:, 0].clamp(min=1).log()  # (I,)
        self.chooses = args.popularity_weight == "auto"
        self.weight = 0.0 if self.chooses else args.popularity_weight

    def scorer(self):
        return WithAdded(super().scorer(), self.weight * self.log_counts)

    def evaluate(self, split):
        """See Recommender. On "valid", `auto` chooses first, so each epoch has a k of its own."""
        if self.chooses and split == "valid":
            self.weight = self.best_weight()
        return super().evaluate(split)

    def best_weight(self):
        """The k, to three digits, with the best metrics on users of the validation split."""
        scorer, evaluator = super().scorer(), self.evaluators["valid"]
        unit = self.spread_of_scores(scorer, some_of(evaluator.users, SCALING))
        unit /= self.log_counts.std(correction=0).item() or 1.0  # of equal items no k matters
        weights = [float(f"{fraction * unit:.3g}") for fraction in FRACTIONS]
        variants = [partial(self.log_counts_added, weight) for weight in weights]
        users = some_of(evaluator.users, CHOOSING)
        return weights[best_variant(evaluator, scorer, variants, users)]

    def log_counts_added(self, weight, scores):
        """Add the popularity to scores (..., I), in place. Returns them."""
        return scores.add_(self.log_counts, alpha=weight)

    def spread_of_scores(self, scorer, users):
        """Mean of the standard deviations of the scores of `users` (n,), over all processes."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for block, scores in masked_scores(scorer, len(self.log_counts), users, []):
            sums[0] += scores.std(1, correction=0).sum()
            sums[1] += len(block)
        total, count = collectives.all_reduce_(sums).tolist()
        return total / count

    def chosen_flags(self):
        own = {"popularity_weight": self.weight} if self.chooses else {}
        return super().chosen_flags() | own

    def state_dict(self):
        return super().state_dict() | {"popularity_weight": self.weight}

    def load_state_dict(self, state):
        self.take_weight(state)
        super().load_state_dict(state)

    def load_weights(self, state):
        self.take_weight(state)
        super().load_weights(state)

    def take_weight(self, state):
        """Take over the k that an evaluation chose, if there was one."""
        if self.chooses:
            self.weight = float(state.get("popularity_weight", 0.0))


class WithAdded:
    """Scores of another scorer, with one more number for each item."""

    def __init__(self, scorer, added):
        """scorer: see evaluate.DotProduct; added (I,)"""
        self.scorer, self.added, self.device = scorer, added, scorer.device

    def scores_of(self, user):
        """Scores (I,), see evaluate.DotProduct."""
        return self.scorer.scores_of(user) + self.added

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I)."""
        self.scorer.score(users, out)
        out += self.added

    def with_users(self, user_encodings):
        """The same scorer for other users (n, D)."""
        return WithAdded(self.scorer.with_users(user_encodings), self.added)

    def encodings(self):
        """Encodings (U, D + 1) and (I, D + 1): 1 for a user, and what is added for an item."""
        users, items = self.scorer.encodings()
        ones = torch.ones_like(users[:, :1])
        return torch.cat([users, ones], 1), torch.cat([items, self.added[:, None]], 1)
