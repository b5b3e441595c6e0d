"""Evaluation: every user's top K of all items but those already seen, and its metrics; errors of predicted ratings.

Shapes: b users or ratings of a block, m pairs of a block, U users, I items, D dim, K list length.
"""

import math

import numpy as np
import torch

from ranks import summed, total

LIST_LENGTHS = (5, 10, 20)
METRICS = tuple(f"{name}@{k}" for name in ("Recall", "NDCG", "Precision", "F1") for k in LIST_LENGTHS)
PAIR_LENGTHS = (50, 100)
PAIR_METRICS = ("AUC", *(f"{name}@{k}" for name in ("HR", "NDCG") for k in PAIR_LENGTHS))
RATING_METRICS = ("RMSE", "MAE", "MSE")
BLOCK_SCORES = 1 << 23  # scores held at a time, 32 MB
BLOCK_RATINGS = 1 << 16  # ratings predicted at a time
TILE_SCORES = 1 << 18  # of them, computed at a time on a CPU, 1 MB


class SeenItems:
    """A part's pairs on the device, to look up by user: indptr (U+1,), int64, and indices (nnz,), int32."""

    def __init__(self, matrix, device):
        self.indptr = torch.as_tensor(matrix.indptr.astype(np.int64), device=device)
        self.indices = torch.as_tensor(matrix.indices.astype(np.int32), device=device)

    def of(self, users):
        """Pairs of the given users (n,): (row in `users`, item), two flat tensors of equal length, sorted by row."""
        start, count = self.indptr[users], self.indptr[users + 1] - self.indptr[users]
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), count)
        offset = torch.arange(len(row), device=users.device) - (count.cumsum(0) - count)[row]
        return row, self.indices[start[row] + offset].long()


class DotProduct:
    """Scores s(u,i) = <p_u, q_i>."""

    def __init__(self, user_encodings, item_encodings):
        """user_encodings (U, D), item_encodings (I, D)"""
        self.users, self.items = user_encodings, item_encodings
        self.device = item_encodings.device

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I)."""
        p = self.users[users]  # (b, D)
        # On a CPU the product is twice as fast by tiles that stay in the cache while they are written.
        width = len(self.items) if out.is_cuda else max(TILE_SCORES // len(users), 1)
        for tile in range(0, len(self.items), width):
            q = self.items[tile : tile + width]  # (t, D)
            torch.mm(p, q.T, out=out[:, tile : tile + len(q)])  # (b, D) (D, t) -> (b, t)


class PredictedRatings(DotProduct):
    """Scores that are ratings; as a prediction, a score stays within the scale (lowest, highest)."""

    def __init__(self, user_encodings, item_encodings, scale):
        super().__init__(user_encodings, item_encodings)
        self.scale = scale

    def predict(self, users, items):
        """The ratings (b,) that users (b,) give to items (b,)."""
        return (self.users[users] * self.items[items]).sum(1).clamp(*self.scale)


def masked_scores(scorer, n_items, users, seen, width=1):
    """Yield (users (b,), their scores (b, I)) by blocks of users; the scores are overwritten by the next block.

    scorer: like DotProduct, for `n_items` items. seen: the SeenItems that get -inf, as do columns past the last item's,
    which make I a multiple of `width`.
    """
    padded = -(-n_items // width) * width
    # One buffer for all blocks: fresh memory costs as much as the product that is written to it.
    at_once = min(max(1, BLOCK_SCORES // padded), max(1, len(users)))
    buffer = torch.empty(at_once, padded, device=scorer.device)
    for block in users.split(at_once) if len(users) else ():  # several ranks: one may have nobody to rank for
        scores = buffer[: len(block)]  # (b, I)
        scorer.score(block, scores[:, :n_items])
        scores[:, n_items:] = -torch.inf
        for part in seen:
            scores[part.of(block)] = -torch.inf
        yield block, scores


def top_items(scorer, n_items, users, seen, k):
    """Yield (users (b,), their top k items (b, k), the scores (b, k)) by blocks of users, best first.

    scorer, n_items: see masked_scores. users (n,): whom to rank for. seen: the SeenItems to leave out; where fewer than
    k items remain, the list is filled up with score -inf and any index, even past the last item's. Ties: the item with
    the lower index comes first. k may not exceed the number of items.
    """
    width = group_width(n_items, k + 1)
    for block, scores in masked_scores(scorer, n_items, users, seen, width):
        yield block, *stable_topk(scores, k, width)


def group_width(items, count):
    """Width of the groups for `largest`, a power of two: where its two searches, of like length, are shortest."""
    return 1 << round(math.log2(max(count * items, 1)) / 2)


def stable_topk(scores, k, width):
    """Like torch.topk over the last axis of (b, I), but with ties in the order of the index: (indices, values).

    width divides I, see `largest`.
    """
    # One more than asked for shows whether a tie crosses the end of the list; then only a whole stable sort is right.
    values, indices = largest(scores, min(k + 1, scores.shape[1]), width)  # (b, k+1)
    if values.shape[1] > k:
        crossing = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
        if crossing.any():
            ordered = scores[crossing].sort(stable=True, descending=True)
            values[crossing], indices[crossing] = ordered.values[:, : k + 1], ordered.indices[:, : k + 1]
    values, indices = values[:, :k], indices[:, :k]
    # Inside the list: by index first, then stably by value.
    indices, order = indices.sort()
    values, second = values.gather(1, order).sort(stable=True, descending=True)
    return indices.gather(1, second), values


def largest(scores, count, width):
    """torch.topk over the last axis of (b, I), reading it once: (values, indices), ties in any order.

    The columns that are equal modulo `width` are a group. The `count` largest scores are all in the `count` groups with
    the largest maxima (or equal ones are).
    """
    if width <= count:
        return scores.topk(count)
    maxima = scores.view(len(scores), -1, width).amax(1)  # (b, I) -> (b, I / width, width) -> (b, width)
    groups = maxima.topk(count, sorted=False).indices  # (b, count)
    first = torch.arange(0, scores.shape[1], width, device=scores.device)
    members = (groups[:, None] + first[:, None]).flatten(1)  # (b, I / width, count) -> (b, I / width * count)
    values, place = scores.gather(1, members).topk(count)
    return values, members.gather(1, place)


def ranks(scores, row, item):
    """Ranks (m,), from 1 for the best, of the scores (b, I) at (row, item); ties: the lower index first. row is sorted.

    A sorted row tells for a score how many are higher, by bisection.
    """
    place = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)  # among the pairs of its row
    own = scores.new_zeros(len(scores), place.max() + 1)  # (b, the most pairs of a row)
    own[row, place] = scores[row, item]
    ordered = sorted_rows(scores)
    below, upto = (torch.searchsorted(ordered, own, side=side)[row, place] for side in ("left", "right"))
    found = scores.shape[1] - upto + 1
    tied = upto - below > 1
    if tied.any():  # only a stable sort is right
        rows, of_rows = row[tied].unique(return_inverse=True)
        order = scores[rows].argsort(stable=True, descending=True)
        found[tied] = order.argsort()[of_rows, item[tied]] + 1
    return found


def sorted_rows(scores):
    """The rows of (b, I) in ascending order. On a CPU numpy's sort is eight times as fast as torch's."""
    return scores.sort().values if scores.is_cuda else torch.from_numpy(np.sort(scores.numpy()))


class Ranking:
    """Evaluator of one part: ranks for every user with an item in it, among all items that are in none of `seen`.

    An evaluator names its `metrics`, the one to `monitor`, and the few to show (`headline`).
    """

    metrics = METRICS
    monitor = "Recall@20"
    headline = ("Recall@20", "NDCG@20")
    larger_is_better = True
    from_zero = True  # whether a plot shows 0

    def __init__(self, part, seen, device):
        """part, seen: csr_array (U, I); seen is a list of parts that share no pair with `part`."""
        degree = np.diff(part.indptr)
        self.users = torch.as_tensor(np.flatnonzero(degree), device=device)  # (n,)
        self.relevant = torch.as_tensor(degree, device=device, dtype=torch.float64)  # (U,)
        self.seen = [SeenItems(matrix, device) for matrix in seen if matrix.nnz]
        self.items = part.shape[1]
        users = np.repeat(np.arange(part.shape[0], dtype=np.int64), degree)
        self.keys = torch.as_tensor(users * self.items + part.indices, device=device)  # (nnz,), sorted
        self.evaluated, self.pairs = total(len(self.users)), total(part.nnz)

    @property
    def protocol(self):
        """What is done, for summary.json."""
        return {
            "ranking": "full: all items but the user's training items (and those held out for validation when testing)",
            "ties": "lower item index first",
            "users_evaluated": self.evaluated,
        }

    def evaluate(self, scorer):
        """Mean over the users of each of METRICS, by name, as floats. scorer: like DotProduct."""
        k = min(max(LIST_LENGTHS), self.items)
        sums = torch.zeros(len(METRICS), dtype=torch.float64, device=self.keys.device)
        for users, items, scores in top_items(scorer, self.items, self.users, self.seen, k):
            wanted = users[:, None] * self.items + items  # (b, k)
            place = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
            hits = ((self.keys[place] == wanted) & (scores > -torch.inf)).double()  # (b, k)
            sums += ranking_metrics(hits, self.relevant[users]).sum(0)
        return dict(zip(METRICS, (summed(sums) / self.evaluated).tolist(), strict=True))


def ranking_metrics(hits, relevant):
    """METRICS of ranked lists -> (b, metrics). hits (b, K): 1.0 where an item is relevant; relevant (b,): |T| >= 1.

    With h hits among the first k:
      Recall@k = h / |T|; Precision@k = h / k; F1@k = 2 h / (|T| + k), the harmonic mean of the two;
      NDCG@k = sum over the hits of 1 / log2(rank + 1), divided by the same sum over the ranks 1 .. min(k, |T|).
    A list shorter than k (fewer items than k) counts as filled up with misses.
    """
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float64)  # (K,)
    discount = 1 / (ranks + 1).log2()
    recall, ndcg, precision, f1 = [], [], [], []
    for k in LIST_LENGTHS:
        h = hits[:, :k].sum(1)  # (b,)
        ideal = (discount * (ranks <= relevant[:, None]))[:, :k].sum(1)
        recall.append(h / relevant)
        ndcg.append((discount * hits)[:, :k].sum(1) / ideal)
        precision.append(h / k)
        f1.append(2 * h / (relevant + k))
    return torch.stack(recall + ndcg + precision + f1, dim=1)


class PairRanking(Ranking):
    """Ranking that also ranks each item of the part among all items of its user that are in none of `seen`.

    The user's other items of the part are among them. Source: Chen et al., lambdaOpt, KDD 2019.
    """

    metrics = METRICS + PAIR_METRICS
    monitor = "NDCG@100"
    headline = ("HR@100", "NDCG@100")

    def __init__(self, part, seen, device):
        super().__init__(part, seen, device)
        self.part = SeenItems(part, device)
        left_out = sum((np.diff(matrix.indptr) for matrix in seen), np.zeros(part.shape[0], np.int64))
        self.candidates = torch.as_tensor(self.items - left_out, device=device)  # (U,)

    @property
    def protocol(self):
        """What is done, for summary.json."""
        how = "each of the user's items in the part by itself, ranked among the same items; mean over the pairs"
        return {**super().protocol, ", ".join(PAIR_METRICS): how, "pairs_evaluated": self.pairs}

    def evaluate(self, scorer):
        """Besides what Ranking finds, the mean over the pairs of each of PAIR_METRICS. scorer: like DotProduct."""
        sums = torch.zeros(len(PAIR_METRICS), dtype=torch.float64, device=self.keys.device)
        for users, scores in masked_scores(scorer, self.items, self.users, self.seen):
            scores.masked_fill_(scores.isnan(), -torch.inf)
            row, item = self.part.of(users)  # (m,) each
            candidates = self.candidates[users[row]]
            # Among those left out, an item of score -inf has no place; it is the last.
            rank = torch.where(scores[row, item] > -torch.inf, ranks(scores, row, item), candidates)
            sums += pair_metrics(rank, candidates).sum(0)
        means = dict(zip(PAIR_METRICS, (summed(sums) / self.pairs).tolist(), strict=True))
        return super().evaluate(scorer) | means


def pair_metrics(rank, candidates):
    """PAIR_METRICS of items -> (m, metrics). rank (m,), from 1, of an item among `candidates` (m,) items, it included.

    AUC = (candidates - rank) / (candidates - 1), the share of the others that come later; 1 where there are no others;
    HR@k = 1 where rank <= k, else 0; NDCG@k = HR@k / log2(rank + 1).
    """
    others = (candidates - 1).double()
    auc = torch.where(others > 0, (candidates - rank) / others, 1.0)
    hit = [(rank <= k).double() for k in PAIR_LENGTHS]
    discount = 1 / (rank + 1).double().log2()
    return torch.stack([auc, *hit, *(h * discount for h in hit)], dim=1)


class RatingErrors:
    """Evaluator of one part: how far predicted ratings are from those given."""

    metrics = RATING_METRICS
    monitor = "RMSE"
    headline = ("RMSE", "MAE")
    larger_is_better = False
    from_zero = False

    def __init__(self, part, seen, device):
        """part: csr_array (U, I) of ratings; seen: the parts that may be known, of no use here."""
        pairs = part.tocoo().coords  # (ratings,) each
        self.users, self.items = (torch.as_tensor(index.astype(np.int64), device=device) for index in pairs)
        self.ratings = torch.as_tensor(part.data.astype(np.float64), device=device)

    @property
    def protocol(self):
        """What is done, for summary.json."""
        return {"errors": "of predictions within the scale of the ratings", "ratings_evaluated": len(self.ratings)}

    def evaluate(self, scorer):
        """RATING_METRICS by name, as floats, of scorer, like PredictedRatings.

        With e a prediction less the rating: MSE = mean of e^2, RMSE = its root, MAE = mean of |e|; over all ratings of
        the part, so that users weigh as much as they rated.
        """
        square = absolute = 0.0
        blocks = (column.split(BLOCK_RATINGS) for column in (self.users, self.items, self.ratings))
        for users, items, ratings in zip(*blocks, strict=True):
            error = scorer.predict(users, items).double() - ratings  # (b,)
            square, absolute = square + error.square().sum(), absolute + error.abs().sum()
        mse = (square / len(self.ratings)).item()
        return {"RMSE": math.sqrt(mse), "MAE": (absolute / len(self.ratings)).item(), "MSE": mse}


def popularity_encodings(train, device):
    """Encodings that score an item by its training interactions, the same for every user: (U, 1) and (I, 1)."""
    counts = torch.as_tensor(item_counts(train).astype(np.float32), device=device)
    return torch.ones(train.shape[0], 1, device=device), counts[:, None]


def item_counts(train):
    """Training interactions of each item (I,)."""
    counts = np.bincount(train.indices, minlength=train.shape[1])
    return summed(torch.from_numpy(counts)).numpy()
