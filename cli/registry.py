"""Values of --encoder, --sampler, --loss, --regularizer, --ranking and --metrics, by name.

Beside each is where it is defined.
Nothing of it is imported here. To add one: write the class or function, and name it here.
Models are named in families/two_tower.py and in families/*/family.py.
"""

import pkgutil

from cli.errors import UserError

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
    "ELSA": "engine.all_items:cosine_error",
}
REGULARIZERS = {
    "decay": "regularizers.decay:WeightDecay",
    "l2": "regularizers.decay:L2Penalty",
    "lambdaopt": "regularizers.lambdaopt:LambdaOpt",
}
RANKINGS = {"users": "evaluate:Ranking", "pairs": "evaluate:PairRanking"}
# Metrics of each user's list: how many of the user's items it finds, and where.
ACCURACY = {
    "Recall": "engine.metrics.accuracy:recall",
    "Precision": "engine.metrics.accuracy:precision",
    "F1": "engine.metrics.accuracy:f1",
    "NDCG": "engine.metrics.accuracy:ndcg",
    "HR": "engine.metrics.accuracy:hit_rate",
    "MRR": "engine.metrics.accuracy:reciprocal_rank",
    "MAP": "engine.metrics.accuracy:average_precision",
}
# Metrics of each user's list: which items it has.
OF_A_LIST = {
    "MeanPopularity": "engine.metrics.lists:mean_popularity",
    "Novelty": "engine.metrics.lists:novelty",
    "TailShare": "engine.metrics.lists:tail_share",
    "Diversity": "engine.metrics.lists:diversity",
}
# Metrics of all lists together.
OF_ALL_LISTS = {
    "Coverage": "engine.metrics.lists:coverage",
    "Gini": "engine.metrics.lists:gini",
}
METRICS = ACCURACY | OF_A_LIST | OF_ALL_LISTS
SMALLER_IS_BETTER = {"MeanPopularity", "Gini", "RMSE", "MAE", "MSE", "logloss"}
NEED_GENRES = {"Diversity"}
WITHOUT_NEGATIVES = {"DirectAU", "ELSA"}  # losses for which none are drawn
OF_ALL_ITEMS = {"ELSA"}  # losses over all items, of batches of users


def find(registry, name):
    """The class or function that `registry` names, imported. Raises UserError if unknown."""
    if name not in registry:
        raise UserError(
            f"there is no {name!r}, only {', '.join(registry)}; to add it, see docs/extending.md"
        )
    return pkgutil.resolve_name(registry[name])


# How a file may be read, see sources/formats.py, and the words for separators.
FORMATS = ("csv", "table", "json", "lightgcn", "counted")
SEPARATORS = {
    "comma": ",",
    "tab": "\t",
    "semicolon": ";",
    "bar": "|",
    "colons": "::",
    "blank": " ",
}
