"""Users without training interactions: in lists and exports they are the mean user.

A model knows nothing of such a user. What training left in the user's row is the random start, or
zeros. Evaluation takes it as it is.
Shapes: U users, I items, D dim, n chosen users, b users of a block.
"""

import logging

import numpy as np
import torch

from inference.users import describe_users

log = logging.getLogger("onebp")


def trained_users(model):
    """Whether each user (U,) has training interactions, bool."""
    return torch.as_tensor(np.diff(model.data.train.indptr) > 0, device=model.device)


def scorer_in_use(model, users):
    """The model's scorer, in which users without training interactions are the mean user.

    model: with the weights to use
    users (n,): whom it will score for; a warning names those among them
    """
    trained, scorer = trained_users(model), model.scorer()
    cold = users[~trained[users]]
    if not len(cold):
        return scorer
    _warn(model.data, cold, "list")
    return MeanForCold(scorer, ~trained, scorer.scores_of(model.mean_user(trained)))


def encodings_in_use(model):
    """Encodings of users (U, D) and items (I, D), whose inner products score as scorer_in_use.

    Warns of the users without training interactions.
    """
    scorer, trained = model.scorer(), trained_users(model)
    cold = (~trained).nonzero()[:, 0]
    if not len(cold):
        return scorer.encodings()
    users, _ = model.encodings()
    _warn(model.data, cold, "row in users.npy")
    users = torch.where(trained[:, None], users, model.mean_user(trained))
    return scorer.with_users(users).encodings()


class MeanForCold:
    """Scores of another scorer, but the same ones for each of some users."""

    def __init__(self, scorer, cold, mean_scores):
        """scorer: see evaluate.DotProduct
        cold (U,): bool, the users who get `mean_scores`
        mean_scores (I,)
        """
        self.scorer, self.cold, self.mean_scores = scorer, cold, mean_scores
        self.device = scorer.device

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I)."""
        self.scorer.score(users, out)
        out[self.cold[users]] = self.mean_scores


def _warn(data, cold, what):
    """Warn of users without training interactions.

    data: Interactions
    cold (n,): indices of these users
    what: what they have of the mean user
    """
    names = describe_users([data.user_ids[user] for user in cold.tolist()])
    text = "warning: no training interaction of %s; their %s is that of the mean user"
    log.warning(text, names, what)
