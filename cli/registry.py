"""What the flags --model, --encoder, --sampler, --loss, --regularizer and --ranking can name, and where it is.

None of it is imported here. To add one: write the class or the function, and name it here.
"""

import pkgutil

from cli.errors import UserError

MODELS = {
    "OneBP": "model:OneBP",
    "TwoBP": "model:TwoBP",
    "Popularity": "families.baselines.popularity:Popularity",
    "EASE": "families.baselines.ease:EASE",
    "ALS": "families.baselines.als:ALS",
    "CML": "families.baselines.cml:CML",
    "SVD": "families.ratings.svd:SVD",
    "SVDpp": "families.ratings.svd:SVDpp",
    "LR": "families.clicks.model:ClickModel",
    "FM": "families.clicks.model:ClickModel",
    "DeepFM": "families.clicks.model:ClickModel",
    "DCNv2": "families.clicks.model:ClickModel",
}
CLICK_MODELS = ("LR", "FM", "DeepFM", "DCNv2")
ENCODERS = {"MF": "model:MF", "LightGCN": "model:LightGCN", "MLP": "model:MLP"}
SAMPLERS = {
    "uniform": "sampler:Uniform",
    "popularity": "sampler:ByPopularity",
    "dns": "sampler:DynamicNegatives",
    "inbatch": "sampler:InBatch",
    "none": "sampler:NoNegatives",
}
LOSSES = {
    "InfoNCE": "model:info_nce",
    "BPR": "model:bpr",
    "BCE": "model:bce",
    "BSL": "model:bsl",
    "DirectAU": "model:direct_au",
}
REGULARIZERS = {
    "decay": "regularizers.decay:WeightDecay",
    "l2": "regularizers.decay:L2Penalty",
    "lambdaopt": "regularizers.lambdaopt:LambdaOpt",
}
MEMORIES = {
    "none": None,
    "knn": "families.clicks.memory:NearestNeighbourMemory",
    "lsh": "families.clicks.memory:HashMemory",
}
RANKINGS = {"users": "evaluate:Ranking", "pairs": "evaluate:PairRanking"}
WITHOUT_NEGATIVES = {"DirectAU"}  # losses for which none are drawn


def find(registry, name):
    """The class or function that `registry` has under `name`; imports its module. Raises UserError for another name."""
    if name not in registry:
        raise UserError(f"registry.py has no {name!r}, only {', '.join(registry)}; name it there")
    return pkgutil.resolve_name(registry[name])
