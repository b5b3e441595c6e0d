"""What the flags --model, --encoder, --sampler, --loss, --regularizer and --ranking can name, and where it is.

None of it is imported here. To add one: write the class or the function, and name it here.
"""

import pkgutil

from errors import UserError

MODELS = {
    "OneBP": "model:OneBP",
    "TwoBP": "model:TwoBP",
    "Popularity": "baselines:Popularity",
    "EASE": "baselines:EASE",
    "ALS": "baselines:ALS",
    "CML": "cml:CML",
    "SVD": "svd:SVD",
    "SVDpp": "svd:SVDpp",
    "LR": "deepfm:LR",
    "FM": "deepfm:FM",
    "DeepFM": "deepfm:DeepFM",
    "DCNv2": "deepfm:DCNv2",
}
CLICK_MODELS = ("LR", "FM", "DeepFM", "DCNv2")
ENCODERS = {"MF": "encoders:MF", "LightGCN": "encoders:LightGCN", "MLP": "encoders:MLP"}
SAMPLERS = {
    "uniform": "sampler:Uniform",
    "popularity": "sampler:ByPopularity",
    "dns": "sampler:Hardest",
    "inbatch": "sampler:InBatch",
    "none": "sampler:NoNegatives",
}
LOSSES = {
    "InfoNCE": "losses:info_nce",
    "BPR": "losses:bpr",
    "BCE": "losses:bce",
    "BSL": "losses:bsl",
    "DirectAU": "losses:direct_au",
}
REGULARIZERS = {"decay": "lambdaopt:Decay", "l2": "lambdaopt:Shrinkage", "lambdaopt": "lambdaopt:LambdaOpt"}
MEMORIES = {"none": None, "knn": "reloop2:Neighbours", "lsh": "reloop2:Sketch"}
RANKINGS = {"users": "evaluate:Ranking", "pairs": "evaluate:PairRanking"}
WITHOUT_NEGATIVES = {"DirectAU"}  # losses for which none are drawn


def find(registry, name):
    """The class or function that `registry` has under `name`; imports its module. Raises UserError for another name."""
    if name not in registry:
        raise UserError(f"registry.py has no {name!r}, only {', '.join(registry)}; name it there")
    return pkgutil.resolve_name(registry[name])
