"""Full ranking: the top K of all items that a user has not seen, and its metrics (engine/metrics).

Shapes: b users of a block, m pairs of a block, U users, I items, D dim, K list length.
"""

import numpy as np
import torch

from cli.errors import UserError
from cli.metrics import (
    CHOSEN,
    CUTOFFS,
    PAIR_METRICS,
    cutoff_of,
    headline_of,
    larger_is_better,
    mistakes,
    names_of,
)
from distributed import collectives
from engine.metrics.accuracy import Lists
from engine.metrics.chosen import Chosen
from engine.metrics.found import Found
from engine.metrics.lists import items_of
from engine.metrics.pairs import pair_metrics
from engine.tables import UserItems
from engine.topk import rank_of, stable_topk, topk_group_count
from sources.share import item_counts

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
    finds_users: whether an evaluation of all users leaves `found`
    found: what the latest evaluation of all users found of each, engine.metrics.found.Found or None
    """

    larger_is_better = True
    from_zero = True
    finds_users, found = False, None

    @classmethod
    def of_splits(cls, data, device, data_dir):
        """{split: its evaluator} for test and, if there is one, valid.

        data: as the model's family loads it; data_dir: folder of the data sets
        """
        splits = {"test": data.test} | ({"valid": data.valid} if data.counts()["valid"] else {})
        about = cls.about(data, device, data_dir)
        return {name: cls(part, data.seen(name), device, *about) for name, part in splits.items()}

    @classmethod
    def about(cls, data, device, data_dir):
        """Further arguments of __init__, see `of_splits`."""
        return ()

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
        """A list of float64 tensors that add up over parts of the users.

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

    Users without an item in the split are left out. Of the class itself the metrics are the
    default; `choose` makes a subclass with others.
    """

    ranking = "users"  # value of --ranking
    chosen = Chosen(CHOSEN, CUTOFFS)
    metrics = names_of(CHOSEN, CUTOFFS)
    monitor = "Recall@20"
    headline = ("Recall@20", "NDCG@20")
    finds_users = True

    @classmethod
    def choose(cls, metrics, cutoffs, monitor):
        """The subclass with these metrics: values of --metrics, --cutoffs and --monitor.

        Raises UserError if they contradict each other.
        """
        names = names_of(metrics, cutoffs, cls.ranking)
        for mistake in mistakes(metrics, cutoffs, cls.ranking, monitor):
            raise UserError(mistake)
        values = {
            "chosen": Chosen(metrics, cutoffs),
            "metrics": names,
            "monitor": monitor,
            "headline": headline_of(monitor, metrics, names),
            "larger_is_better": larger_is_better(monitor),
        }
        return type(cls.__name__, (cls,), values)

    @classmethod
    def about(cls, data, device, data_dir):
        return (items_of(data, device, data_dir, cls.chosen.need_genres),)

    def __init__(self, split, seen, device, about=None):
        """Prepare the evaluation of a split.

        split: csr_array (U, I)
        seen: list of csr_array (U, I) that share no pair with it
        about: engine.metrics.lists.Items; None: for metrics of accuracy, Coverage and Gini
        """
        degree = np.diff(split.indptr)
        self.users = torch.as_tensor(np.flatnonzero(degree), device=device)  # (n,)
        self.relevant = torch.as_tensor(degree, device=device, dtype=torch.float64)  # (U,)
        self.seen = [UserItems(matrix, device) for matrix in seen if matrix.nnz]
        self.items, self.about_items = split.shape[1], about
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
        sums, found = self.chosen.zeros(self.items, self.keys.device), None
        if users is None:
            users, hits = self.users, sums[0].new_zeros(self.items)
            k = cutoff_of(self.monitor, self.chosen.cutoffs)
            found = self.found = Found(self.chosen.accuracy, k, hits)
        k = min(max(self.chosen.cutoffs), self.items)
        for block, items, scores in top_items(scorer, self.items, users, self.seen, k):
            # An item is a hit if its pair is among the sorted keys.
            wanted = block[:, None] * self.items + items  # (b, k)
            place = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
            listed = scores > -torch.inf
            hits = ((self.keys[place] == wanted) & listed).double()
            items = items.clamp(max=self.items - 1)
            lists = Lists(hits, self.relevant[block], items, listed, self.about_items)
            values = self.chosen.add_(sums, lists)
            if found:
                found.add(block, values, lists)
        return sums

    def metrics_from(self, *sums):
        return self.chosen.means(*sums)


class PairRanking(Ranking):
    """Ranking, and besides, each pair of the split ranked by itself.

    The item of a pair is ranked among all items that the user has not seen, the user's other items
    of the split included. Source: Chen et al., lambdaOpt, KDD 2019.
    """

    ranking = "pairs"
    metrics = names_of(CHOSEN, CUTOFFS, "pairs")
    monitor = "NDCG@100"
    headline = ("HR@100", "NDCG@100")

    def __init__(self, split, seen, device, about=None):
        super().__init__(split, seen, device, about)
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
        sums = torch.zeros(len(PAIR_METRICS), dtype=torch.float64, device=self.keys.device)
        count, own = 0, self.users if users is None else users
        for block, scores in masked_scores(scorer, self.items, own, self.seen):
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

    def metrics_from(self, *sums):
        *ranked, pair_sums, pair_count = sums
        means = dict(zip(PAIR_METRICS, (pair_sums / pair_count).tolist(), strict=True))
        return super().metrics_from(*ranked) | means


def popularity_encodings(train, device):
    """Encodings (U, 1) and (I, 1) that score an item by its training interactions, for every user.

    train: csr_array (U, I)
    """
    counts = torch.as_tensor(item_counts(train).astype(np.float32), device=device)
    return torch.ones(train.shape[0], 1, device=device), counts[:, None]
