"""Collaborative metric learning: users are near the items that they like.

Shapes: B batch, N negatives, D dim.
"""

import torch

from model import MF, TwoBP


class CML(TwoBP):
    """Squared distances in the unit ball. A positive must be nearer than negatives, by --margin.

    The loss is the hinge [margin + |p - q_i|^2 - min_j |p - q_j|^2]_+, weighted by
    log(1 + rank of the positive). The rank is estimated: the share of the uniform negatives that
    are within the margin, times the number of items. Source: Hsieh et al., Collaborative metric
    learning, WWW 2017 (without its covariance term).
    """

    identifying = ("model", "dim")

    def make_encoder(self):
        encoder = MF(self.data, self.args, self.generator)
        # Adam also moves rows that a step did not read, perhaps out of the ball. So every row is
        # pulled back in each step.
        encoder.by_row = False
        return encoder

    def make_loss(self):
        return self.hinge

    def for_inner_product(self, *encodings):
        """p and q (..., D) -> (..., D + 2), whose inner product is -|p - q|^2."""
        p, q = encodings
        p_square, q_square = (x.square().sum(-1, True) for x in (p, q))
        p_one, q_one = torch.ones_like(p_square), torch.ones_like(q_square)
        return torch.cat([2 * p, -p_one, -p_square], -1), torch.cat([q, q_square, q_one], -1)

    def hinge(self, batch, args):
        """The loss of the class, from a model.Batch."""
        violation = args.margin + batch.negative - batch.positive  # (N, B)
        share = (violation > 0).float().mean(0)  # (B,)
        rank_weight = (1 + share * self.data.shape[1]).log()
        return (rank_weight * violation.amax(0).relu()).mean()

    def after_step(self, weights, place, *batch):
        """Pull the encodings back into the unit ball."""
        for table in weights.values():
            table.div_(table.norm(dim=1, keepdim=True).clamp(min=1))
