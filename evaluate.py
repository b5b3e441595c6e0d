"""Full ranking: the top K of all items that a user has not seen, and its metrics.

Shapes: b users of a block, m pairs of a block, U users, I items, D dim, K list length.
"""

import numpy as np
import torch

from distributed import collectives
from engine.tables import UserItems
from engine.topk import rank_of, stable_topk, topk_group_count
from sources.share import item_counts

LIST_LENGTHS = (5, 10, 20)
METRICS = tuple(
    f"{name}@{k}" for name in ("Recall", "NDCG", "Precision", "F1") for k in LIST_LENGTHS
)
PAIR_LENGTHS = (50, 100)
PAIR_METRICS = ("AUC", *(f"{name}@{k}" for name in ("HR", "NDCG") for k in PAIR_LENGTHS))
BLOCK_SCORES = 1 << 23  # scores held at a time, 32 MB
TILE_SCORES = 1 << 18  # scores computed at a time on a CPU, 1 MB


class DotProduct:
    """Scores s(u,i) = <p_u, q_i>."""

    def __init__(self, user_encodings, item_encodings):
        """user_encodings (U, D), item_encodings (I, D)"""
        self.users, self.items = user_encodings, item_encodings
        self.device = item_encodings.device

    def scores_of(self, user):
        """Scores (I,) of a user with the encoding `user` (D,)."""
        return self.items @ user

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I)."""
        p = self.users[users]  # (b, D)
        # On a CPU the product is twice as fast by tiles that stay in the cache.
        width = len(self.items) if out.is_cuda else max(TILE_SCORES // len(users), 1)
        for tile in range(0, len(self.items), width):
            q = self.items[tile : tile + width]  # (t, D)
            torch.mm(p, q.T, out=out[:, tile : tile + len(q)])  # (b, D) (D, t) -> (b, t)

    def with_users(self, user_encodings):
        """The same scorer for other users (n, D)."""
        return DotProduct(user_encodings, self.items)

    def encodings(self):
        """Encodings (U, D) and (I, D) whose inner products are the scores."""
        return self.users, self.items


def masked_scores(scorer, n_items, users, seen, groups=1):
    """Yield (users (b,), their scores (b, I)) by blocks; the next block overwrites the scores.

    scorer: like DotProduct, for n_items items
    users (n,): whom to score for
    seen: list of UserItems whose pairs get -inf
    groups: I is n_items rounded up to a multiple of it; columns past the last item get -inf
    """
    padded = -(-n_items // groups) * groups
    # One buffer for all blocks: fresh memory costs as much as the product that is written to it.
    at_once = min(max(1, BLOCK_SCORES // padded), max(1, len(users)))
    buffer = torch.empty(at_once, padded, device=scorer.device)
    for block in users.split(at_once) if len(users) else ():
        scores = buffer[: len(block)]  # (b, I)
        scorer.score(block, scores[:, :n_items])
        scores[:, n_items:] = -torch.inf
        for pairs in seen:
            scores[pairs.pairs_of(block)] = -torch.inf
        yield block, scores


def top_items(scorer, n_items, users, seen, k):
    """Yield (users (b,), their top k items (b, k), the scores (b, k)) by blocks, best item first.

    Ties: the lower item index comes first. If fewer than k items are left for a user, the list ends
    with scores of -inf and any index, even past the last item.

    scorer, n_items, users: see masked_scores
    seen: list of UserItems to leave out
    k: at most n_items
    """
    groups = topk_group_count(n_items, k + 1)
    for block, scores in masked_scores(scorer, n_items, users, seen, groups):
        values, items = stable_topk(scores, k, groups)
        yield block, items, values


def best_variant(evaluator, scorer, variants, users, width=None):
    """Index of the best of some variants of a scorer, whose scores are computed once.

    Of equal ones it is the first. All processes find the same one.

    evaluator: a Ranking
    scorer: writes (b, width) numbers, see DotProduct; width: None: I
    variants: functions of these numbers, which they may change, that return scores (b, I)
    users (n,): some of those of the evaluator, in ascending order
    """
    users = users.contiguous()
    totals = [evaluator.sums(scorer, users[:0]) for _ in variants]  # zeros
    for block, scores in masked_scores(scorer, width or evaluator.items, users, []):
        for sums, change in zip(totals, variants, strict=True):
            found = evaluator.sums(Variant(block, scores, change), block)
            for total, more in zip(sums, found, strict=True):
                total += more
    metrics = [evaluator.metrics_from(*map(collectives.all_reduce_, sums)) for sums in totals]
    best = 0
    for number, found in enumerate(metrics):
        best = number if evaluator.better(found, metrics[best]) else best
    return best


def some_of(users, count):
    """This process's portion of `count` users, at equal distances among `users` (n,)."""
    step = -(-len(users) // max(collectives.own_portion(count), 1))
    return users[:: max(step, 1)]


class Variant:
    """Scores that are made of numbers which are computed already."""

    def __init__(self, users, scores, change):
        """users (b,): in ascending order; scores (b, width), change: see best_variant"""
        self.users, self.scores, self.change = users, scores, change
        self.device = scores.device

    def score(self, users, out):
        """Write the scores of `users`, some of those of the block, into out."""
        out.copy_(self.change(self.scores[torch.searchsorted(self.users, users)]))


class Evaluator:
    """Evaluates one split. A subclass has these attributes, `sums`, `metrics_from` and `protocol`.

    metrics: names, in the order of the columns of metrics.csv
    monitor: the metric that chooses the best epoch
    headline: the few metrics to show
    larger_is_better: whether a larger `monitor` is better
    from_zero: whether a plot of the metrics shows 0
    sizes: {name for summary.json: how many users (pairs, ratings, rows) are evaluated}
    """

    larger_is_better = True
    from_zero = True

    @property
    def protocol(self):
        """How it evaluates, {topic: text} for summary.json."""
        raise NotImplementedError

    @classmethod
    def better(cls, metrics, others):
        """Whether `metrics` are better than `others`, by the monitored one."""
        first, second = metrics[cls.monitor], others[cls.monitor]
        return first > second if cls.larger_is_better else first < second

    def sums(self, scorer, users=None):
        """A list of float64 tensors (n,) that add up over parts of the users.

        users (n,): some of those of the split, for rankings; None: all

        Sums over users (pairs, ratings), and their numbers, by which `metrics_from` divides.
        """
        raise NotImplementedError

    def metrics_from(self, *sums):
        """{metric: float} from the tensors of `sums`."""
        raise NotImplementedError

    def evaluate(self, scorer):
        """{metric: float} of what `scorer` predicts."""
        return self.metrics_from(*self.sums(scorer))


class Ranking(Evaluator):
    """Ranks for every user of the split among all items that the user has not seen.

    Users without an item in the split are left out.
    """

    metrics = METRICS
    monitor = "Recall@20"
    headline = ("Recall@20", "NDCG@20")

    def __init__(self, split, seen, device):
        """split: csr_array (U, I); seen: list of csr_array (U, I) that share no pair with it."""
        degree = np.diff(split.indptr)
        self.users = torch.as_tensor(np.flatnonzero(degree), device=device)  # (n,)
        self.relevant = torch.as_tensor(degree, device=device, dtype=torch.float64)  # (U,)
        self.seen = [UserItems(matrix, device) for matrix in seen if matrix.nnz]
        self.items = split.shape[1]
        users = np.repeat(np.arange(split.shape[0], dtype=np.int64), degree)
        keys = users * self.items + split.indices
        self.keys = torch.as_tensor(keys, device=device)  # (nnz,), sorted
        self.sizes = {"users_evaluated": len(self.users)}

    @property
    def protocol(self):
        return {
            "ranking": "full: all items but the user's training items "
            "(and those held out for validation when testing)",
            "ties": "lower item index first",
        }

    def sums(self, scorer, users=None):
        users = self.users if users is None else users
        k = min(max(LIST_LENGTHS), self.items)
        sums = torch.zeros(len(METRICS), dtype=torch.float64, device=self.keys.device)
        for block, items, scores in top_items(scorer, self.items, users, self.seen, k):
            # An item is a hit if its pair is among the sorted keys.
            wanted = block[:, None] * self.items + items  # (b, k)
            place = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
            hits = ((self.keys[place] == wanted) & (scores > -torch.inf)).double()  # (b, k)
            sums += ranking_metrics(hits, self.relevant[block]).sum(0)
        return [sums, sums.new_tensor([len(users)])]

    def metrics_from(self, sums, count):
        return dict(zip(METRICS, (sums / count).tolist(), strict=True))


def ranking_metrics(hits, relevant):
    """METRICS of ranked lists -> (b, metrics).

    hits (b, K): 1.0 where the item at a place of the list is in the split
    relevant (b,): |T| >= 1, the user's items in the split

    With h hits among the first k:
      Recall@k = h / |T|; Precision@k = h / k; F1@k = 2 h / (|T| + k), their harmonic mean;
      NDCG@k = sum over the hits of 1 / log2(rank + 1), divided by the same sum over the ranks
      1 .. min(k, |T|).
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
    """Ranking, and besides, each pair of the split ranked by itself.

    The item of a pair is ranked among all items that the user has not seen, the user's other items
    of the split included. Source: Chen et al., lambdaOpt, KDD 2019.
    """

    metrics = METRICS + PAIR_METRICS
    monitor = "NDCG@100"
    headline = ("HR@100", "NDCG@100")

    def __init__(self, split, seen, device):
        super().__init__(split, seen, device)
        self.pairs = UserItems(split, device)
        left_out = sum(
            (np.diff(matrix.indptr) for matrix in seen), np.zeros(split.shape[0], np.int64)
        )
        self.candidates = torch.as_tensor(self.items - left_out, device=device)  # (U,)
        self.sizes |= {"pairs_evaluated": split.nnz}

    @property
    def protocol(self):
        how = (
            "each of the user's items in the split by itself, ranked among the same items; "
            "mean over the pairs"
        )
        return super().protocol | {", ".join(PAIR_METRICS): how}

    def sums(self, scorer, users=None):
        users = self.users if users is None else users
        sums = torch.zeros(len(PAIR_METRICS), dtype=torch.float64, device=self.keys.device)
        count = 0
        for block, scores in masked_scores(scorer, self.items, users, self.seen):
            scores.masked_fill_(scores.isnan(), -torch.inf)
            row, item = self.pairs.pairs_of(block)  # (m,) each
            candidates = self.candidates[block[row]]
            count += len(row)
            # An item of score -inf cannot be told from those left out: it counts as the last.
            scored = scores[row, item] > -torch.inf
            rank = torch.where(scored, rank_of(scores, row, item), candidates)
            sums += pair_metrics(rank, candidates).sum(0)
        ranked = super().sums(scorer, users)  # the scores are computed once more
        return [*ranked, sums, sums.new_tensor([count])]

    def metrics_from(self, sums, count, pair_sums, pair_count):
        means = dict(zip(PAIR_METRICS, (pair_sums / pair_count).tolist(), strict=True))
        return super().metrics_from(sums, count) | means


def pair_metrics(rank, candidates):
    """PAIR_METRICS of ranked items -> (m, metrics).

    rank (m,): place of an item, from 1
    candidates (m,): the items that it is ranked among, itself included

    AUC = (candidates - rank) / (candidates - 1), the share of the others that come later, or 1 if
    there are no others. HR@k = 1 if rank <= k, else 0. NDCG@k = HR@k / log2(rank + 1).
    """
    others = (candidates - 1).double()
    auc = torch.where(others > 0, (candidates - rank) / others, 1.0)
    hit = [(rank <= k).double() for k in PAIR_LENGTHS]
    discount = 1 / (rank + 1).double().log2()
    return torch.stack([auc, *hit, *(h * discount for h in hit)], dim=1)


def popularity_encodings(train, device):
    """Encodings (U, 1) and (I, 1) that score an item by its training interactions, for every user.

    train: csr_array (U, I)
    """
    counts = torch.as_tensor(item_counts(train).astype(np.float32), device=device)
    return torch.ones(train.shape[0], 1, device=device), counts[:, None]
