"""The steps of an epoch: all ranks make the same number, each on its share of a batch."""

from cli.errors import RaisedByAllRanks
from distributed import collectives


class Schedule:
    """The steps of an epoch. A rank that has used up its interactions gets empty batches.

    ranks: [(number of interactions of the rank, its share of a batch)]
    """

    def __init__(self, sampler):
        """sampler: sampler.Batches of this rank"""
        self.sampler = sampler
        sizes, batch_sizes = map(collectives.all_gather_ints, (sampler.size, sampler.batch_size))
        self.ranks = list(zip(sizes, batch_sizes, strict=True))
        self.interactions = sum(sizes)

    def __len__(self):
        return max(-(-size // batch_size) for size, batch_size in self.ranks)

    def sizes(self, number):
        """Return the number of interactions of each rank in a step. number: of the step, from 0"""
        left = [(size - number * batch_size, batch_size) for size, batch_size in self.ranks]
        return [min(max(rest, 0), batch_size) for rest, batch_size in left]

    def whole(self, number):
        """Whether every rank has a full batch in a step. number: of the step, from 0"""
        return all((number + 1) * batch_size <= size for size, batch_size in self.ranks)

    def batches(self):
        """Yield this rank's batches of an epoch."""
        self.source, self.next = self._drawn(), None
        for _ in range(len(self)):
            self.draw_ahead()
            batch, self.next = self.next, None
            yield batch

    def draw_ahead(self):
        """Draw the next batch early, to overlap with communication."""
        if self.next is None:
            self.next = next(self.source, None)

    def _drawn(self):
        """Yield this rank's batches, then empty ones, with the items they need from other ranks."""
        batches = self.sampler.epoch()
        for number in range(len(self)):
            batch = next(batches, None) or self.sampler.empty_batch()
            yield self.sampler.exchange(batch, self.sizes(number))


def own_batch_size(batch_size):
    """Return the number of interactions of this rank in a batch.

    Raises RaisedByAllRanks if a rank would get no interaction.
    """
    count = collectives.world_size()
    if batch_size < count:
        raise RaisedByAllRanks(
            f"--batch_size {batch_size} is too small for {count} ranks: a rank would get no "
            f"interaction; give {count} or more"
        )
    return collectives.own_portion(batch_size)
