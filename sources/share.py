"""The users of a data set, divided among processes."""

from dataclasses import dataclass

import numpy as np

from cli.errors import RaisedByAllRanks
from distributed import collectives
from sources.interactions import Interactions


@dataclass(frozen=True)
class Share(Interactions):
    """The part of a data set that a rank holds: users from `first` on, with all of their interactions; all items."""

    first: int = 0
    users: int = 0  # of the whole data set
    whole_counts: dict = None
    whole_description: str = ""

    def counts(self):
        return self.whole_counts

    def describe(self):
        return f"{self.whole_description}; users divided among {collectives.world_size()} ranks"


def own_share(data):
    """This rank's Share of Interactions; all of them where there is one process.

    Raises UserError where a rank would have nothing to train.
    """
    if collectives.world_size() == 1:
        return data
    first, last = own_span(user_cuts(data.name, data.train.indptr))
    parts = {part: getattr(data, part)[first:last] for part in ("train", "valid", "test")}
    return Share(
        data.name,
        data.user_ids[first:last],
        data.item_ids,
        **parts,
        digest=data.digest,
        first=first,
        users=data.shape[0],
        whole_counts=data.counts(),
        whole_description=data.describe(),
    )


def user_cuts(name, indptr):
    """The first user of each rank, and the number of users: like numbers of interactions lie between.

    name: of the data set; indptr (U + 1,): the training interactions before each user. Raises UserError where a rank
    would have none.
    """
    ends = balanced_cuts(indptr, collectives.world_size())
    if not all(np.diff(indptr[ends]) > 0):
        raise RaisedByAllRanks(
            f"data set {name} has fewer users to train on than the {collectives.world_size()} ranks; "
            "start fewer of them"
        )
    return ends


def own_span(ends):
    """(first, after the last) of this rank's users, from `cuts`."""
    return ends[collectives.rank() : collectives.rank() + 2]


def balanced_cuts(indptr, parts):
    """Where to cut users (U,) so that the parts have like numbers of interactions: (parts + 1) numbers of users.

    No part is without interactions, where so many users have any. indptr (U + 1,): the interactions before each user.
    """
    wanted = indptr[-1] * np.arange(1, parts) / parts
    after = np.searchsorted(
        indptr, np.ceil(wanted).astype(indptr.dtype)
    )  # of another type indptr would be copied
    ends = [
        0,
        *np.where(wanted - indptr[after - 1] < indptr[after] - wanted, after - 1, after),
        len(indptr) - 1,
    ]
    for number in range(1, parts):  # something before each cut
        least = np.searchsorted(indptr, indptr[ends[number - 1]], side="right")
        ends[number] = min(max(ends[number], least), len(indptr) - 1)
    for number in range(parts - 1, 0, -1):  # and behind it
        ends[number] = min(ends[number], np.searchsorted(indptr, indptr[ends[number + 1]]) - 1)
    return [int(end) for end in ends]
