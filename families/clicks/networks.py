"""Models of clicks on one layer of embeddings: LR, FM, DeepFM and DCNv2.

Shapes: B batch, F fields, D dim, V ids over all fields, H numbers of a hidden layer.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from engine.tables import Weights, rows
from families.clicks.model import ClickModel

STD = 1e-4  # of the embeddings at the start, as in FuxiCTR


class Outputs(NamedTuple):
    """What a model computes of impressions."""

    logits: Tensor  # (B,) of a click
    embedding: Tensor  # (B, F * D) the embeddings of the fields' values
    hidden: Tensor  # (B, H) what the logits are made of in the end: the last hidden layer


class LogisticRegression(Weights):
    """Logistic regression: logit = w_0 + sum_f w_f, w_f being the weight of the value of field f."""

    compiles, by_row = True, False
    own = 1  # columns of the table of embeddings that are not the embedding: w_f

    def __init__(self, data, args, generator):
        """data: clicks.Clicks; of args: dim, hidden, layers; generator: on the device where the weights shall live."""
        super().__init__()
        self.generator, self.fields, self.dim = generator, len(data.fields), self.width(args)
        table = self.normal(sum(data.sizes), self.dim + self.own, std=STD)
        table[:, self.dim :] = 0
        # What is out of the vocabulary adds nothing, until training says otherwise.
        table[torch.as_tensor(data.offsets, device=generator.device)] = 0
        self.register("embedding", table)  # (V, D + own)
        self.register("bias", torch.zeros(1, device=generator.device))
        self.build(self.fields * self.dim, args)

    def width(self, args):
        """D"""
        return 0

    def build(self, inputs, args):
        """Add the weights beyond the table; inputs: F * D."""

    def normal(self, *shape, std):
        """Normal random numbers."""
        return std * torch.randn(*shape, generator=self.generator, device=self.generator.device)

    def register_layers(self, name, sizes, start=1):
        """Add linear layers between these sizes, called <name><number>_weight and <name><number>_bias."""
        for number, (n, m) in enumerate(pairwise(sizes), start):
            self.register(
                f"{name}{number}_weight", self.normal(n, m, std=(2 / (n + m)) ** 0.5)
            )  # Xavier
            self.register(f"{name}{number}_bias", torch.zeros(m, device=self.generator.device))

    def forward(self, weights, ids):
        """Outputs for ids (B, F), from weights by name."""
        found = rows(weights["embedding"], ids)  # (B, F, D + own)
        embedding, own = (
            found[:, :, : self.dim],
            found[:, :, self.dim :].flatten(1),
        )  # (B, F, D), (B, F or 0)
        return self.outputs(weights, embedding, own)

    def outputs(self, weights, embedding, own):
        """Outputs from embeddings (B, F, D) and the weights w_f (B, F)."""
        return Outputs(own.sum(1) + weights["bias"], own, own)


class FactorizationMachine(LogisticRegression):
    """Factorisation machine: logistic regression + sum_{f<g} <e_f, e_g>, e_f being the embedding of f's value.

    Source: Rendle, Factorization machines, ICDM 2010.
    """

    def width(self, args):
        return args.dim

    def outputs(self, weights, embedding, own):
        flat = embedding.flatten(1)  # (B, F, D) -> (B, F * D)
        return Outputs(own.sum(1) + weights["bias"] + pairs(embedding), flat, flat)


class DeepFMNetwork(FactorizationMachine):
    """Factorisation machine + MLP(e_1, ..., e_F). Source: Guo et al., arXiv 1703.04247."""

    def build(self, inputs, args):
        self.depth = len(args.hidden)
        self.register_layers("hidden", [inputs, *args.hidden])
        self.register_layers("output", [args.hidden[-1], 1], start=0)

    def mlp(self, weights, x):
        """The last hidden layer (B, H) for x (B, F * D)."""
        for number in range(1, self.depth + 1):
            x = functional.relu(
                torch.addmm(weights[f"hidden{number}_bias"], x, weights[f"hidden{number}_weight"])
            )
        return x

    def outputs(self, weights, embedding, own):
        linear = super().outputs(weights, embedding, own)
        hidden = self.mlp(weights, linear.embedding)
        deep = torch.addmm(weights["output0_bias"], hidden, weights["output0_weight"])[:, 0]
        return Outputs(linear.logits + deep, linear.embedding, hidden)


class DCNv2Network(DeepFMNetwork):
    """Cross layers beside an MLP: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, x_0 = (e_1, ..., e_F); linear in both ends.

    Source: Wang et al., DCN V2, WWW 2021, arXiv 2008.13535, the parallel form.
    """

    own = 0

    def build(self, inputs, args):
        self.depth, self.crosses = len(args.hidden), args.layers
        self.register_layers("cross", [inputs] * (args.layers + 1))
        self.register_layers("hidden", [inputs, *args.hidden])
        self.register_layers("output", [inputs + args.hidden[-1], 1], start=0)

    def outputs(self, weights, embedding, own):
        start = x = embedding.flatten(1)  # (B, F, D) -> (B, F * D)
        for number in range(1, self.crosses + 1):
            x = (
                start
                * torch.addmm(weights[f"cross{number}_bias"], x, weights[f"cross{number}_weight"])
                + x
            )
        hidden = torch.cat([x, self.mlp(weights, start)], dim=1)  # (B, F * D + H)
        logits = (
            torch.addmm(weights["output0_bias"], hidden, weights["output0_weight"])[:, 0]
            + weights["bias"]
        )
        return Outputs(logits, start, hidden)


def pairs(embedding):
    """sum_{f<g} <e_f, e_g> (B,) of embeddings (B, F, D): half of |sum_f e_f|^2 - sum_f |e_f|^2."""
    total = embedding.sum(1)  # (B, D)
    return (total.square().sum(1) - embedding.square().sum((1, 2))) / 2


class LR(ClickModel):
    """Clicks by logistic regression."""

    encoder_class = LogisticRegression


class FM(ClickModel):
    """Clicks by a factorisation machine."""

    encoder_class = FactorizationMachine


class DeepFM(ClickModel):
    """Clicks by a factorisation machine and an MLP."""

    encoder_class = DeepFMNetwork


class DCNv2(ClickModel):
    """Clicks by cross layers and an MLP."""

    encoder_class = DCNv2Network
