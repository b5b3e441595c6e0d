"""Models of explicit ratings: biased matrix factorisation, and with the set of rated items beside it (SVD++).

Shapes: B batch, U users, I items, D dim.
"""

import numpy as np
import torch

from engine.tables import SparseProduct, csr_tensor, rows
from families.ratings.metrics import PredictedRatings, RatingErrors
from model import MF
from recommender import BatchTrained
from sampler import Sampler


class RatingBatches(Sampler):
    """Interactions with their ratings."""

    def __init__(self, train, args, generator):
        """train: csr_array (U, I) of ratings."""
        super().__init__(train, args, generator)
        self.ratings = torch.as_tensor(train.data, device=self.device)  # (interactions,)

    @property
    def columns(self):
        return self.users, self.items, self.ratings

    def draw(self, users, items, ratings):
        return ratings


# Of the squares of the weights that a rating touches, beside --reg. Biases need less than factors, and with less than
# this for y SVD++ overfits after half of its epochs. Found on MovieLens 1M; as good on 100K.
WEIGHT = {"user": 1.0, "item": 1.0, "user_bias": 0.2, "item_bias": 0.2, "item_implicit": 5.0}


class BiasedMF(MF):
    """Factors of users and items, and their biases: r(u,i) = mean + b_u + b_i + <p_u, q_i>.

    What is in no training rating gets zeros, so that it is predicted as the mean of the others.
    """

    def __init__(self, train, args, generator):
        super().__init__(train, args, generator)
        self.mean = float(train.data.mean(dtype=np.float64))
        for name, count, index in zip(
            ("user", "item"), train.shape, train.tocoo().coords, strict=True
        ):
            self.register(f"{name}_bias", torch.zeros(count, 1, device=generator.device))
            known = torch.as_tensor(
                np.bincount(index, minlength=count) > 0, device=generator.device
            )
            getattr(self, name).mul_(known[:, None])

    def factors(self, own, weights, users):
        """p (B, D) and q (B, D), from the rows `own` of the weights and from these."""
        return own["user"], own["item"]

    def forward(self, weights, users=None, items=None):
        """(B, D + 2) each; their inner product is the predicted rating."""
        own = {
            name: rows(table, users if name.startswith("user") else items)
            for name, table in weights.items()
        }
        p, q = self.factors(own, weights, users)
        user = torch.cat([p, own["user_bias"] + self.mean, torch.ones_like(p[:, :1])], dim=1)
        return user, torch.cat([q, torch.ones_like(q[:, :1]), own["item_bias"]], dim=1)


class BiasedMFWithHistory(BiasedMF):
    """To a user's factors comes what the user rated, whatever the rating: p_u + |N(u)|^-1/2 sum_{j in N(u)} y_j.

    N(u) are the items in the user's training ratings. Source: Koren, Factorization meets the neighborhood, KDD 2008;
    there a rating shrinks y_j of all N(u), here that of its item, by more.
    """

    by_row = False
    compiles = False  # torch.compile does not take sparse products

    def __init__(self, train, args, generator):
        super().__init__(train, args, generator)
        self.register("item_implicit", torch.zeros_like(self.item))  # y (I, D)
        degree = np.diff(train.indptr)
        graph = train.copy()
        graph.data = np.repeat(1 / np.sqrt(np.maximum(degree, 1)), degree).astype(np.float32)
        self.graph = [
            csr_tensor(m.indptr, m.indices, m.data, m.shape, generator.device)
            for m in (graph, graph.T.tocsr())
        ]

    def factors(self, own, weights, users):
        return own["user"] + rows(
            SparseProduct.apply(weights["item_implicit"], *self.graph), users
        ), own["item"]


class SVD(BatchTrained):
    """Biased matrix factorisation by squared errors, with --reg times the squares of what a rating touches.

    Source: Koren, Bell & Volinsky, Matrix factorization techniques for recommender systems, IEEE Computer 2009.
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
        return self.encoder_class(self.data.train, self.args, self.generator)

    def make_sampler(self):
        return RatingBatches(self.data.train, self.args, self.generator)

    def touched(self, users, items, ratings):
        return {name: users if name.startswith("user") else items for name in self.weights}

    def loss(self, trained, constant, place, users, items, ratings):
        # Looked up once for error and squares, so that gradients are added to the tables once.
        own = {
            name: rows(trained[name], index) for name, index in place.items()
        }  # (B, D) or (B, 1) each
        p, q = self.encoder.factors(own, trained, place["user"])
        error = (
            ratings
            - self.encoder.mean
            - (p * q).sum(1)
            - (own["user_bias"] + own["item_bias"])[:, 0]
        )
        squares = sum(WEIGHT[name] * part.square().sum(1) for name, part in own.items())  # (B,)
        return (error.square() + self.args.reg * squares).mean()

    def encodings(self):
        """(U, D + 2) and (I, D + 2); their inner product is the predicted rating, not yet held within the scale."""
        return self.encoder(self.weights)

    def scorer(self):
        return PredictedRatings(*self.encodings(), self.scale)

    def baselines(self):
        """Errors of the mean training rating, and of the mean with biases (Koren, TKDD 2010, section 2.1)."""
        mean, users, items = deviations(self.data.train)
        tables = {
            "Mean": (np.full_like(users, mean), np.zeros_like(items)),
            "Biases": (mean + users, items),
        }
        result = {}
        for name, (users, items) in tables.items():
            pairs = (users, np.ones_like(users)), (np.ones_like(items), items)
            encodings = (
                torch.as_tensor(np.stack(pair, 1), device=self.device) for pair in pairs
            )  # (U, 2), (I, 2)
            result[name] = self.evaluators["test"].evaluate(
                PredictedRatings(*encodings, self.scale)
            )
        return result


class SVDpp(SVD):
    """SVD with the set of the items that a user rated."""

    encoder_class = BiasedMFWithHistory


def deviations(train, shrink_user=10, shrink_item=25):
    """Mean rating; how far users (U,) and items (I,) are from it, as if each had `shrink` ratings more of the mean.

    Items come first; users are by what is then left.
    """
    users, items = train.tocoo().coords
    mean = train.data.mean(dtype=np.float64)
    rest, found = train.data - mean, []
    for index, size, shrink in (
        (items, train.shape[1], shrink_item),
        (users, train.shape[0], shrink_user),
    ):
        found.append(np.bincount(index, rest, size) / (shrink + np.bincount(index, minlength=size)))
        rest = rest - found[-1][index]
    return mean, found[1], found[0]
