"""Which examples an update learns in an epoch: all new ones, and some old ones among them.

Shapes: n examples.
"""

import torch


class Replay:
    """Every new example once in an epoch, and a share of old ones, drawn anew for each epoch."""

    def __init__(self, is_new, share):
        """is_new (n,): bool, whether an example is new
        share: old examples for each new one; at most all old ones are in an epoch
        """
        self.new, self.old = is_new.nonzero()[:, 0], is_new.logical_not().nonzero()[:, 0]
        self.drawn = min(round(share * len(self.new)), len(self.old))

    @property
    def size(self):
        """Examples per epoch."""
        return len(self.new) + self.drawn

    def order(self, generator):
        """Places (size,) of the examples of an epoch, in its order.

        The old ones are spread evenly: any batch has their share, to within one example.
        """
        new = self.new[self._shuffled(len(self.new), generator)]
        old = self.old[self._shuffled(len(self.old), generator)[: self.drawn]]
        before = torch.arange(self.size + 1, device=new.device) * self.drawn // max(self.size, 1)
        is_old = before.diff() > 0  # (size,)
        order = new.new_empty(self.size)
        order[is_old], order[~is_old] = old, new
        return order

    def frequency(self, count):
        """How often each of `count` examples is expected in an epoch, (count,)."""
        expected = torch.full((count,), self.drawn / max(len(self.old), 1), device=self.new.device)
        expected[self.new] = 1.0
        return expected

    @staticmethod
    def _shuffled(count, generator):
        return torch.randperm(count, device=generator.device, generator=generator)
