"""The networks of the click models: LR, FM, DeepFM and DCNv2, all on one table of embeddings.

Shapes: B batch, F fields and histories, W ids of a row, D dim, V ids over all fields, H numbers of
the last hidden layer.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from engine.tables import Weights, look_up
from families.clicks.histories import LENGTH

STD = 1e-4  # standard deviation of the embeddings before training, as in FuxiCTR


class Outputs(NamedTuple):
    """Results of a network for a batch of impressions."""

    logits: Tensor  # (B,) of a click
    embedding: Tensor  # (B, F * D) embeddings of the fields' values; LR: (B, F) their weights
    hidden: Tensor  # (B, H) last layer before the logits; LR and FM: the same as embedding


class LogisticRegression(Weights):
    """Logistic regression: logit = w_0 + sum_f w_f, with w_f the weight of the value of field f."""

    compiles, by_row = True, False
    linear_columns = 1  # extra columns of the table, holding each value's linear weight w_f

    def __init__(self, data, args, generator):
        """Make the weights before training.

        data: dataset.Clicks
        args: flags; uses dim, hidden, layers
        generator: source of random numbers, on the device of the weights
        """
        super().__init__()
        self.generator, self.dim = generator, self.embedding_dim(args)
        self.fields, self.padding = len(data.fields), data.padding
        rows = sum(data.sizes) + bool(data.histories)  # with one of zeros, for the padding
        table = self.normal(rows, self.dim + self.linear_columns, std=STD)
        table[:, self.dim :] = 0
        # A value out of the vocabulary starts without an effect: with zeros.
        table[torch.as_tensor(data.offsets, device=generator.device)] = 0
        table[data.padding :] = 0
        self.register("embedding", table)  # (V, D + linear_columns)
        self.register("bias", torch.zeros(1, device=generator.device))
        self.add_layers((len(data.fields) + len(data.histories)) * self.dim, args)

    def embedding_dim(self, args):
        """Return D, numbers of an embedding."""
        return 0

    def add_layers(self, inputs, args):
        """Register the weights other than embedding and bias. inputs: F * D"""

    def normal(self, *shape, std):
        """Draw normal random numbers."""
        return torch.randn(*shape, generator=self.generator, device=self.generator.device).mul_(std)

    def register_layers(self, name, sizes, start=1):
        """Register linear layers between sizes, <name><number>_weight and <name><number>_bias.

        sizes: numbers of inputs of each layer, and of outputs of the last
        start: number of the first layer

        The weights are Xavier-normal, the biases 0.
        """
        for number, (n, m) in enumerate(pairwise(sizes), start):
            xavier = (2 / (n + m)) ** 0.5
            self.register(f"{name}{number}_weight", self.normal(n, m, std=xavier))
            self.register(f"{name}{number}_bias", torch.zeros(m, device=self.generator.device))

    def forward(self, weights, ids):
        """Return Outputs for ids (B, W).

        weights: {name: tensor}; the table `embedding` holds both embeddings and linear weights
        """
        values = look_up(weights["embedding"], ids[:, : self.fields])
        if ids.shape[1] > self.fields:
            means = self.means_of_histories(weights["embedding"], ids[:, self.fields :])
            values = torch.cat([values, means], dim=1)  # (B, F, D + linear_columns)
        linear = values[:, :, self.dim :].flatten(1)  # (B, F), DCNv2: (B, 0)
        return self.outputs(weights, values[:, :, : self.dim], linear)

    def means_of_histories(self, table, ids):
        """Return the mean of the rows of each history, 0 for one without a value.

        table (V, ...), ids (B, histories * LENGTH)

        As `feature_encoder: layers.MaskedAveragePooling()` of FuxiCTR.
        """
        bags = ids.reshape(-1, LENGTH)
        means = functional.embedding_bag(bags, table, mode="mean", padding_idx=self.padding)
        return means.unflatten(0, (len(ids), -1))

    def outputs(self, weights, embedding, linear):
        """Return Outputs.

        weights: {name: tensor}
        embedding (B, F, D): e_f of each field
        linear (B, F): w_f of each field
        """
        return Outputs(linear.sum(1) + weights["bias"], linear, linear)


class FactorizationMachine(LogisticRegression):
    """Factorisation machine: logistic regression + sum_{f<g} <e_f, e_g>.

    e_f is the embedding of the value of field f.
    Source: Rendle, Factorization machines, ICDM 2010.
    """

    def embedding_dim(self, args):
        return args.dim

    def outputs(self, weights, embedding, linear):
        flat = embedding.flatten(1)  # (B, F, D) -> (B, F * D)
        return Outputs(linear.sum(1) + weights["bias"] + pairs(embedding), flat, flat)


class DeepFMNetwork(FactorizationMachine):
    """DeepFM: factorisation machine + MLP(e_1, ..., e_F). Source: Guo et al., arXiv 1703.04247."""

    def add_layers(self, inputs, args):
        self.depth = len(args.hidden)
        self.register_layers("hidden", [inputs, *args.hidden])
        self.register_layers("output", [args.hidden[-1], 1], start=0)

    def mlp(self, weights, x):
        """Return the last hidden layer (B, H) for x (B, F * D)."""
        for number in range(1, self.depth + 1):
            weight, bias = weights[f"hidden{number}_weight"], weights[f"hidden{number}_bias"]
            x = functional.relu(torch.addmm(bias, x, weight))
        return x

    def outputs(self, weights, embedding, linear):
        machine = super().outputs(weights, embedding, linear)
        hidden = self.mlp(weights, machine.embedding)
        deep = torch.addmm(weights["output0_bias"], hidden, weights["output0_weight"])[:, 0]
        return Outputs(machine.logits + deep, machine.embedding, hidden)


class DCNv2Network(DeepFMNetwork):
    """DCNv2: cross layers beside an MLP, x_{l+1} = x_0 * (W_l x_l + b_l) + x_l.

    x_0 = (e_1, ..., e_F). The logit is linear in the last cross layer and the last hidden layer.
    Source: Wang et al., DCN V2, WWW 2021, arXiv 2008.13535, the parallel form.
    """

    linear_columns = 0

    def add_layers(self, inputs, args):
        self.depth, self.crosses = len(args.hidden), args.layers
        self.register_layers("cross", [inputs] * (args.layers + 1))
        self.register_layers("hidden", [inputs, *args.hidden])
        self.register_layers("output", [inputs + args.hidden[-1], 1], start=0)

    def outputs(self, weights, embedding, linear):
        start = x = embedding.flatten(1)  # (B, F, D) -> (B, F * D)
        for number in range(1, self.crosses + 1):
            weight, bias = weights[f"cross{number}_weight"], weights[f"cross{number}_bias"]
            x = start * torch.addmm(bias, x, weight) + x
        hidden = torch.cat([x, self.mlp(weights, start)], dim=1)  # (B, F * D + H of the MLP)
        deep = torch.addmm(weights["output0_bias"], hidden, weights["output0_weight"])[:, 0]
        return Outputs(deep + weights["bias"], start, hidden)


# By the name of the model, as --model gives it.
NETWORKS = {
    "LR": LogisticRegression,
    "FM": FactorizationMachine,
    "DeepFM": DeepFMNetwork,
    "DCNv2": DCNv2Network,
}


def pairs(embedding):
    """Return sum_{f<g} <e_f, e_g> (B,) of embeddings (B, F, D).

    It is computed as half of |sum_f e_f|^2 - sum_f |e_f|^2.
    """
    total = embedding.sum(1)  # (B, D)
    return (total.square().sum(1) - embedding.square().sum((1, 2))) / 2
