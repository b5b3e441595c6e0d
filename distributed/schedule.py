"""The steps of an epoch, the same number on every rank."""

from cli.errors import RaisedByAllRanks
from distributed import collectives


class Schedule:
    """An epoch's steps. A rank that has no interactions left takes part in the last ones with empty batches."""

    def __init__(self, sampler):
        self.sampler = sampler
        # of the ranks, (interactions, those in a step)
        self.parts = list(
            zip(
                collectives.all_gather_ints(sampler.size),
                collectives.all_gather_ints(sampler.batch_size),
                strict=True,
            )
        )
        self.interactions = sum(size for size, _ in self.parts)

    def __len__(self):
        return max(-(-size // batch_size) for size, batch_size in self.parts)

    def sizes(self, number):
        """Of the step `number`, from 0, the interactions of each rank."""
        return [
            min(max(size - number * batch_size, 0), batch_size) for size, batch_size in self.parts
        ]

    def whole(self, number):
        """Whether in the step `number` every rank's part of the batch is whole."""
        return all((number + 1) * batch_size <= size for size, batch_size in self.parts)

    def batches(self):
        """Yield this rank's batches, see sampler.py."""
        self.source, self.next = self._drawn(), None
        for _ in range(len(self)):
            self.draw_ahead()
            batch, self.next = self.next, None
            yield batch

    def draw_ahead(self):
        """Draw the next batch, if that is not done yet and there is one: something to do while waiting."""
        if self.next is None:
            self.next = next(self.source, None)

    def _drawn(self):
        batches = self.sampler.epoch()
        for number in range(len(self)):
            batch = next(batches, None) or next(self.sampler.at(self.sampler.users[None, :0]))
            yield self.sampler.complete(batch, self.sizes(number))


def own_batch_size(batch_size):
    """This process's part of a batch. Raises UserError if a process would have none of it."""
    count = collectives.world_size()
    if batch_size < count:
        raise RaisedByAllRanks(
            f"--batch_size {batch_size} is too small for {count} ranks, one each at least"
        )
    return collectives.own_portion(batch_size)
