"""The steps of an epoch, the same number on every rank."""

from distributed import collectives


class Schedule:
    """The steps of an epoch. A rank that has used up its interactions gets empty batches."""

    def __init__(self, sampler):
        """Take a sampler (see sampler.py), whose batches are this rank's."""
        self.sampler = sampler
        # (number of interactions, batch size) of each rank
        sizes = collectives.all_gather_ints(sampler.size)
        batch_sizes = collectives.all_gather_ints(sampler.batch_size)
        self.per_rank = list(zip(sizes, batch_sizes, strict=True))
        self.interactions = sum(sizes)

    def __len__(self):
        return max(-(-size // batch_size) for size, batch_size in self.per_rank)

    def sizes(self, number):
        """Return the number of interactions of each rank in a step. number: of the step, from 0."""
        return [
            min(max(size - number * batch_size, 0), batch_size)
            for size, batch_size in self.per_rank
        ]

    def whole(self, number):
        """Whether every rank has a full batch in a step. number: of the step, from 0."""
        return all((number + 1) * batch_size <= size for size, batch_size in self.per_rank)

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
        """Yield this rank's batches: those of the sampler, then empty ones."""
        batches = self.sampler.epoch()
        for number in range(len(self)):
            batch = next(batches, None) or next(self.sampler.at(self.sampler.users[None, :0]))
            yield self.sampler.complete(batch, self.sizes(number))
