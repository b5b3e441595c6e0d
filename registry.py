"""What the flags --model, --encoder, --sampler and --loss can name, and where it is. Imports nothing.

To add one: write the class or the function, and name it here.
"""

import pkgutil

MODELS = {
    "OneBP": "model:OneBP",
    "TwoBP": "model:TwoBP",
    "Popularity": "baselines:Popularity",
    "EASE": "baselines:EASE",
    "ALS": "baselines:ALS",
}
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


def find(registry, name):
    """The class or function that `registry` has under `name`; imports its module."""
    return pkgutil.resolve_name(registry[name])
