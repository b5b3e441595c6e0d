"""Walk: a walk of three steps from each user, see engine/walk.py. Nothing is trained.

Shapes: U users, I items, b users of a block.
"""

from functools import partial

import engine.walk
from evaluate import best_variant, some_of
from families.baselines.linear import Linear

# What auto chooses from, on so many users of the validation split.
BETAS = [step / 20 for step in range(21)]
STRENGTHS = [step / 10 for step in range(10)]
CHOOSING = 10_000


class Walk(Linear):
    """The scores of an engine.walk.Walk; chooses --walk_beta, and then --walk_sharpen, if auto."""

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        flags = args.walk_alpha, args.walk_beta, args.walk_sharpen
        self.walk = engine.walk.Walk(data.train, device, *flags)

    def solve(self):
        """Choose what is auto. Returns 0: a walk has no loss."""
        walk, sharpen = self.walk, self.walk.sharpen
        walk.sharpen = 0.0
        if walk.beta == "auto":
            walk.beta = 0.0
            walk.beta = self.best(BETAS, walk.damp_)
        walk.sharpen = self.best(STRENGTHS, walk.sharpen_) if sharpen == "auto" else sharpen
        return 0.0

    def best(self, values, change):
        """The best of `values` on the validation split.

        change: function(scores (b, I), value) -> scores
        """
        evaluator = self.evaluators["valid"]
        users = some_of(evaluator.users, CHOOSING)
        variants = [partial(change, value=value) for value in values]
        return values[best_variant(evaluator, self, variants, users)]

    def chosen_flags(self):
        chosen = {"walk_beta": self.walk.beta, "walk_sharpen": self.walk.sharpen}
        return {flag: value for flag, value in chosen.items() if getattr(self.args, flag) == "auto"}

    def scores_of_rows(self, x):
        return self.walk.scores_of_rows(x.to_dense())

    def state_dict(self):
        """The exponents and the strength; the data decide everything else."""
        return {name: getattr(self.walk, name) for name in ("alpha", "beta", "sharpen")}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        for name in ("alpha", "beta", "sharpen"):
            if not isinstance(state[name], (int, float)):
                raise ValueError(f"{name} is no number")
            setattr(self.walk, name, state[name])
