"""Values of --encoder, --sampler, --loss, --regularizer and --ranking, and where each is defined.

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
