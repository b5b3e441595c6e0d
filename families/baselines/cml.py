"""Collaborative metric learning: users near the items that they like.

Shapes: B batch, N negatives, D dim.
"""

import torch

from model import MF, TwoBP


class CML(TwoBP):
    """Squared distances in the unit ball: a positive shall be nearer than the nearest negative, by --margin.

    The hinge [margin + |p - q_i|^2 - min_j |p - q_j|^2]_+ weighs log(1 + the positive's rank), which the share of the
    uniform negatives that are within the margin estimates. Source: Hsieh et al., Collaborative metric learning, WWW
    2017 (without its covariance term).
    """

    identifying = ("model", "dim")

    def make_encoder(self):
        encoder = MF(self.data.train, self.args, self.generator)
        encoder.by_row = (
            False  # Adam moves rows that a step did not read too, perhaps out of the ball
        )
        return encoder

    def make_loss(self):
        return self.hinge

    def comparable(self, *encodings):
        """p and q (..., D) -> (..., D + 2), whose inner product is -|p - q|^2."""
        p, q = encodings
        one, p_square, q_square = (
            torch.ones_like(p[..., :1]),
            p.square().sum(-1, True),
            q.square().sum(-1, True),
        )
        return torch.cat([2 * p, -one, -p_square], -1), torch.cat(
            [q, q_square, torch.ones_like(q_square)], -1
        )

    def hinge(self, batch, args):
        """The loss above, from a losses.Batch."""
        violation = args.margin + batch.negative - batch.positive  # (N, B)
        share = (violation > 0).float().mean(0)  # (B,)
        rank_weight = (1 + share * self.data.shape[1]).log()
        return (rank_weight * violation.amax(0).relu()).mean()

    def after_step(self, weights, place, *batch):
        """Back into the unit ball."""
        for table in weights.values():
            table.div_(table.norm(dim=1, keepdim=True).clamp(min=1))
