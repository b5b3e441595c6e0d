"""Evaluation: every user's top K of all items but those already seen, and its metrics; errors of predicted ratings.

Shapes: b users or ratings of a block, m pairs of a block, U users, I items, D dim, K list length.
"""

import numpy as np
import torch

from distributed.collectives import all_reduce_, all_reduce_int
from engine.tables import UserItems, item_counts
from engine.topk import rank_of, stable_topk, topk_group_width

LIST_LENGTHS = (5, 10, 20)
METRICS = tuple(
    f"{name}@{k}" for name in ("Recall", "NDCG", "Precision", "F1") for k in LIST_LENGTHS
)
PAIR_LENGTHS = (50, 100)
PAIR_METRICS = ("AUC", *(f"{name}@{k}" for name in ("HR", "NDCG") for k in PAIR_LENGTHS))
BLOCK_SCORES = 1 << 23  # scores held at a time, 32 MB
TILE_SCORES = 1 << 18  # of them, computed at a time on a CPU, 1 MB


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


def masked_scores(scorer, n_items, users, seen, width=1):
    """Yield (users (b,), their scores (b, I)) by blocks of users; the scores are overwritten by the next block.

    scorer: like DotProduct, for `n_items` items. seen: the SeenItems that get -inf, as do columns past the last item's,
    which make I a multiple of `width`.
    """
    padded = -(-n_items // width) * width
    # One buffer for all blocks: fresh memory costs as much as the product that is written to it.
    at_once = min(max(1, BLOCK_SCORES // padded), max(1, len(users)))
    buffer = torch.empty(at_once, padded, device=scorer.device)
    for block in (
        users.split(at_once) if len(users) else ()
    ):  # several ranks: one may have nobody to rank for
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
    width = topk_group_width(n_items, k + 1)
    for block, scores in masked_scores(scorer, n_items, users, seen, width):
        yield block, *stable_topk(scores, k, width)


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
        self.seen = [UserItems(matrix, device) for matrix in seen if matrix.nnz]
        self.items = part.shape[1]
        users = np.repeat(np.arange(part.shape[0], dtype=np.int64), degree)
        self.keys = torch.as_tensor(
            users * self.items + part.indices, device=device
        )  # (nnz,), sorted
        self.evaluated, self.pairs = all_reduce_int(len(self.users)), all_reduce_int(part.nnz)

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
        return dict(zip(METRICS, (all_reduce_(sums) / self.evaluated).tolist(), strict=True))


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
        self.part = UserItems(part, device)
        left_out = sum(
            (np.diff(matrix.indptr) for matrix in seen), np.zeros(part.shape[0], np.int64)
        )
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
            rank = torch.where(
                scores[row, item] > -torch.inf, rank_of(scores, row, item), candidates
            )
            sums += pair_metrics(rank, candidates).sum(0)
        means = dict(zip(PAIR_METRICS, (all_reduce_(sums) / self.pairs).tolist(), strict=True))
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


def popularity_encodings(train, device):
    """Encodings that score an item by its training interactions, the same for every user: (U, 1) and (I, 1)."""
    counts = torch.as_tensor(item_counts(train).astype(np.float32), device=device)
    return torch.ones(train.shape[0], 1, device=device), counts[:, None]
