"""Models of explicit ratings: biased matrix factorisation (SVD), and SVD++ with the rated items.

Shapes: B batch, U users, I items, D dim.
"""

import numpy as np
import torch

from engine.tables import SparseProduct, csr_tensor, look_up
from families.ratings.metrics import PredictedRatings, RatingErrors
from model import MF
from recommender import BatchTrained
from sampler import Sampler


class RatingBatches(Sampler):
    """Batches of interactions with their ratings: users, items and ratings, (B,) each."""

    def __init__(self, train, args, generator):
        """Prepare the batches.

        train: csr_array (U, I) of ratings
        args, generator: see Sampler
        """
        super().__init__(train, args, generator)
        self.ratings = torch.as_tensor(train.data, device=self.device)  # (interactions,)

    @property
    def columns(self):
        return self.users, self.items, self.ratings

    def draw(self, users, items, ratings):
        return ratings


# The penalty of a table's weights, in multiples of --reg. Biases need less than factors. With a
# smaller value for item_implicit (y), SVD++ overfits after half of its epochs. Found on MovieLens
# 1M; as good on 100K.
PENALTY = {"user": 1.0, "item": 1.0, "user_bias": 0.2, "item_bias": 0.2, "item_implicit": 5.0}


class BiasedMF(MF):
    """Encoder of SVD, matrix factorisation with biases: r(u,i) = mean + b_u + b_i + <p_u, q_i>.

    Users and items without training ratings start with zero factors and biases and keep them, so
    they do not change a prediction.
    """

    def __init__(self, data, args, generator):
        super().__init__(data, args, generator)
        train = data.train
        self.mean = float(train.data.mean(dtype=np.float64))
        coords = train.tocoo().coords
        for name, count, index in zip(("user", "item"), train.shape, coords, strict=True):
            bias = torch.zeros(count, 1, device=generator.device)
            self.register(f"{name}_bias", bias, of=name, per=name)
            has_ratings = np.bincount(index, minlength=count) > 0
            has_ratings = torch.as_tensor(has_ratings, device=generator.device)
            getattr(self, name).mul_(has_ratings[:, None])

    def factors(self, batch_rows, weights, users):
        """Return the factors p (B, D) of users and q (B, D) of items.

        batch_rows: {name: rows (B, ...) of the weights for a batch}
        weights: {name: whole table}
        users (B,), or None for all
        """
        return batch_rows["user"], batch_rows["item"]

    def forward(self, weights, users=None, items=None):
        """Return encodings (B, D + 2) of users and of items.

        Their inner product is the predicted rating, not limited to the scale.
        """
        batch_rows = {
            name: look_up(table, users if self.row_of[name] == "user" else items)
            for name, table in weights.items()
        }
        p, q = self.factors(batch_rows, weights, users)
        ones_p, ones_q = torch.ones_like(p[:, :1]), torch.ones_like(q[:, :1])
        user = torch.cat([p, batch_rows["user_bias"] + self.mean, ones_p], dim=1)
        return user, torch.cat([q, ones_q, batch_rows["item_bias"]], dim=1)


class BiasedMFWithHistory(BiasedMF):
    """Encoder of SVD++: the factors of a user are p_u + |N(u)|^-1/2 sum_{j in N(u)} y_j.

    N(u) are the items in the user's training ratings, whatever the ratings are.
    Source: Koren, Factorization meets the neighborhood, KDD 2008. There, the step on one rating
    decays y_j of all j in N(u). Here, it decays only y_i of the rated item, but more strongly
    (5 times, see PENALTY).
    """

    by_row = False
    compiles = False  # torch.compile does not support sparse products

    def __init__(self, data, args, generator):
        super().__init__(data, args, generator)
        train = data.train
        # y (I, D)
        self.register("item_implicit", torch.zeros_like(self.item), of="item", per="item")
        # The sum over N(u) is a product with the (U, I) matrix that has |N(u)|^-1/2 in row u.
        degree = np.diff(train.indptr)
        history = train.copy()
        history.data = np.repeat(1 / np.sqrt(np.maximum(degree, 1)), degree).astype(np.float32)
        self.history = [
            csr_tensor(m.indptr, m.indices, m.data, m.shape, generator.device)
            for m in (history, history.T.tocsr())
        ]

    def factors(self, batch_rows, weights, users):
        implicit = SparseProduct.apply(weights["item_implicit"], *self.history)  # (U, D)
        return batch_rows["user"] + look_up(implicit, users), batch_rows["item"]


class SVD(BatchTrained):
    """Biased matrix factorisation, trained on squared errors.

    The loss of a rating adds --reg times the squares of the weights in the rating's rows.
    Source: Koren, Bell & Volinsky, Matrix factorization techniques for recommender systems, IEEE
    Computer 2009.
    """

    identifying = ("model", "dim")
    encoder_class = BiasedMF

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.scale = float(data.train.data.min()), float(data.train.data.max())

    @staticmethod
    def evaluator_class(args):
        return RatingErrors

    def make_encoder(self):
        return self.encoder_class(self.data, self.args, self.generator)

    def make_sampler(self):
        return RatingBatches(self.data.train, self.args, self.generator)

    def rows_of(self, users, items, ratings):
        row_of = self.encoder.row_of
        return {name: users if row_of[name] == "user" else items for name in self.weights}

    def loss(self, trained, constant, place, users, items, ratings):
        # Look the rows up once, for the error and for the squares: (B, D) or (B, 1) each. So the
        # gradients are added to the tables once.
        batch_rows = {name: look_up(trained[name], index) for name, index in place.items()}
        p, q = self.encoder.factors(batch_rows, trained, place["user"])
        biases = (batch_rows["user_bias"] + batch_rows["item_bias"])[:, 0]
        error = ratings - self.encoder.mean - (p * q).sum(1) - biases
        squares = sum(PENALTY[name] * x.square().sum(1) for name, x in batch_rows.items())  # (B,)
        return (error.square() + self.args.reg * squares).mean()

    def encodings(self):
        """Return encodings (U, D + 2) and (I, D + 2).

        Their inner product is the predicted rating, not limited to the scale.
        """
        return self.encoder(self.weights)

    def mean_user(self, trained):
        """Encoding (D + 2,) of a user who does not deviate from the mean: r(u,i) = mean + b_i."""
        user = torch.zeros(self.args.dim + 2, device=self.device)
        user[-2:] = torch.tensor([self.encoder.mean, 1.0])
        return user

    def scorer(self):
        return PredictedRatings(*self.encodings(), self.scale)

    def baselines(self):
        """Return {baseline: {metric: float}} on the test split.

        Mean predicts the mean training rating. Biases predicts the mean plus the deviations of user
        and item (Koren, TKDD 2010, section 2.1).
        """
        mean, users, items = deviations(self.data.train)
        tables = {
            "Mean": (np.full_like(users, mean), np.zeros_like(items)),
            "Biases": (mean + users, items),
        }
        result = {}
        for name, (users, items) in tables.items():
            # user + item is the inner product of (user, 1) and (1, item): (U, 2), (I, 2).
            pairs = (users, np.ones_like(users)), (np.ones_like(items), items)
            encodings = (torch.as_tensor(np.stack(pair, 1), device=self.device) for pair in pairs)
            scorer = PredictedRatings(*encodings, self.scale)
            result[name] = self.metrics_of(scorer, "test")
        return result


class SVDpp(SVD):
    """SVD++: SVD whose users also have the factors of their rated items."""

    encoder_class = BiasedMFWithHistory


def deviations(train, shrink_user=10, shrink_item=25):
    """Compute how far the ratings of items and users deviate from the mean rating.

    train: csr_array (U, I) of ratings
    shrink_user, shrink_item: number of ratings equal to the mean that are added to each

    Returns the mean rating, the deviations of users (U,) and those of items (I,). The items'
    deviations are computed first, the users' from what remains of the ratings.
    """
    users, items = train.tocoo().coords
    mean = train.data.mean(dtype=np.float64)
    rest, results = train.data - mean, []
    for index, size, shrink in (
        (items, train.shape[1], shrink_item),
        (users, train.shape[0], shrink_user),
    ):
        count = np.bincount(index, minlength=size)
        results.append(np.bincount(index, rest, size) / (shrink + count))
        rest = rest - results[-1][index]
    of_items, of_users = results
    return mean, of_users, of_items
