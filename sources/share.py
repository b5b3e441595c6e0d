"""The users of a data set, divided among processes.

Shapes: U users.
"""

from dataclasses import dataclass

import numpy as np
import torch

from cli.errors import RaisedByAllRanks
from distributed import collectives
from sources.interactions import SPLITS, Interactions


@dataclass(frozen=True)
class Share(Interactions):
    """The users of a data set that this rank trains, with all of their interactions, and all items.

    first: the first of these users; they are consecutive
    users: number of users in the whole data set
    whole_counts, whole_description: `counts()` and `describe()` of the whole data set
    """

    first: int = 0
    users: int = 0
    whole_counts: dict = None
    whole_description: str = ""

    def counts(self):
        return self.whole_counts

    def describe(self):
        return f"{self.whole_description}; users divided among {collectives.world_size()} ranks"


def own_share(data):
    """This rank's Share of some Interactions; in one process, the Interactions themselves.

    Raises UserError if a rank would have nothing to train.
    """
    if collectives.world_size() == 1:
        return data
    first, last = own_span(user_cuts(data.name, data.train.indptr))
    splits = {split: getattr(data, split)[first:last] for split in SPLITS}
    return Share(
        data.name,
        data.user_ids[first:last],
        data.item_ids,
        **splits,
        digest=data.digest,
        first=first,
        users=data.shape[0],
        whole_counts=data.counts(),
        whole_description=data.describe(),
        protocol=data.protocol,
    )


def user_cuts(name, indptr):
    """Divide the users so that the ranks have about equal numbers of interactions.

    name: of the data set
    indptr (U + 1,): the training interactions before each user

    Returns the first user of each rank, then U. Raises UserError if a rank would have no
    interactions.
    """
    cuts = balanced_cuts(indptr, collectives.world_size())
    if not all(np.diff(indptr[cuts]) > 0):
        raise RaisedByAllRanks(
            f"data set {name} has fewer users to train on than the {collectives.world_size()} "
            "ranks; start fewer of them"
        )
    return cuts


def own_span(cuts):
    """(first user, user after the last) of this rank. cuts: from `user_cuts`"""
    return cuts[collectives.rank() : collectives.rank() + 2]


def balanced_cuts(indptr, count):
    """Cut a row of users into `count` sections with about equal numbers of interactions.

    indptr (U + 1,): the interactions before each user

    Returns count + 1 numbers: the first user of each section, then U. Every section has
    interactions, if at least `count` users have any.
    """
    # Cut where the number of interactions before the cut is nearest to an equal division. For
    # example, 1, 1, 90 and 1 interactions in 4 sections: [0, 2, 2, 3, 4].
    wanted = indptr[-1] * np.arange(1, count) / count
    # Search with indptr's own type: numpy would copy indptr to another one.
    after = np.searchsorted(indptr, np.ceil(wanted).astype(indptr.dtype))
    nearest = np.where(wanted - indptr[after - 1] < indptr[after] - wanted, after - 1, after)
    cuts = [0, *nearest, len(indptr) - 1]
    # Move cuts up, so that each section but the last has interactions: [0, 2, 3, 4, 4].
    for number in range(1, count):
        least = np.searchsorted(indptr, indptr[cuts[number - 1]], side="right")
        cuts[number] = min(max(cuts[number], least), len(indptr) - 1)
    # Move cuts down, so that the last section, too, has some: [0, 1, 2, 3, 4].
    for number in range(count - 1, 0, -1):
        cuts[number] = min(cuts[number], np.searchsorted(indptr, indptr[cuts[number + 1]]) - 1)
    return [int(cut) for cut in cuts]


def item_counts(train):
    """Training interactions of each item (I,), summed over all ranks. train: csr_array (U, I)"""
    counts = np.bincount(train.indices, minlength=train.shape[1])
    return collectives.all_reduce_(torch.from_numpy(counts)).numpy()
