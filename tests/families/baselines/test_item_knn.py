"""ItemKNN against its definition, one pair of items after the other."""

import numpy as np
import pytest
import torch
from tools import build, made_data

from families.baselines import item_knn


def weights_by_hand(train, neighbours, shrinkage):
    """Weights (I, I): in column i the similarities of the neighbours of item i."""
    x = train.toarray()
    items = x.shape[1]
    weights = np.zeros((items, items))
    for item in range(items):
        similar = {}
        for other in range(items):
            common = (x[:, item] * x[:, other]).sum()
            if other != item and common:
                length = np.sqrt(x[:, item].sum() * x[:, other].sum())
                similar[other] = common / (length + shrinkage)
        best = sorted(similar, key=lambda other: (-np.float32(similar[other]), other))
        for other in best[:neighbours]:
            weights[other, item] = similar[other]
    return weights


@pytest.mark.parametrize(("neighbours", "shrinkage"), [(3, 0), (5, 2.5), (1000, 10)])
def test_weights_are_those_of_the_definition(neighbours, shrinkage, device, monkeypatch):
    """By blocks of items; some have no user, some fewer neighbours than asked for."""
    data = made_data(users=30, items=50, count=300)
    assert (data.train.sum(0) == 0).any()
    monkeypatch.setattr(item_knn, "BLOCK_SCORES", 7 * 50)
    flags = ("--neighbours", neighbours, "--shrinkage", shrinkage)
    model = build("ItemKNN", *flags, data=data, device=device)
    model.train_epoch(0.0, lambda: None)
    expected = weights_by_hand(data.train, neighbours, shrinkage)
    (weights,) = model.weights
    assert weights.nnz == (expected > 0).sum()
    np.testing.assert_allclose(weights.toarray(), expected, rtol=1e-5)
    users = torch.tensor([4, 29, 4], device=device)
    scores = torch.empty(3, 50, device=device)
    model.scorer().score(users, scores)
    expected = data.train.toarray()[users.cpu()] @ expected
    np.testing.assert_allclose(scores.cpu(), expected, rtol=1e-5)
