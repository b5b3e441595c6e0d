"""Flags that a choice ignores, by the flag that makes the choice: whoever gives one of them expects something else."""

from cli.registry import ENCODERS, LOSSES, MEMORIES, MODELS, REGULARIZERS, SAMPLERS

CHOICES = {
    "mode": ("train", "evaluate", "recommend", "export"),
    **{
        "model": MODELS,
        "encoder": ENCODERS,
        "sampler": SAMPLERS,
        "loss": LOSSES,
        "regularizer": REGULARIZERS,
    },
    "memory": MEMORIES,
}
LAMBDAOPT = "granularity lambda_lr lambda_interval lambda_grad lambda_clip"
OF_ENCODINGS = "encoder similarity beta aggregation sampler alpha candidates loss gamma temperature"
OF_ENCODINGS += f" regularizer {LAMBDAOPT}"
TOWERS = f"{OF_ENCODINGS} layers preset"
MEMORY = "memory_key memory_k memory_lambda memory_tau memory_gamma memory_bits memory_size memory_sigma memory_tune"
CLICKS = (
    "threshold label categorical numeric skip_bad_lines hidden slots eval_file_name loss_file_name"
)
CLICKS += f" memory {MEMORY} incremental incremental_lr"
INTERACTIONS = f"{OF_ENCODINGS} N reg confidence margin ranking fold refit split_seed"
GRADIENTS = f"{TOWERS} N batch_size optimizer lr l2 l2_grid lr_schedule lr_dc lr_dc_epoch compile"
IGNORED = {
    "mode": {
        "train": "users topk keep_seen history passes output checkpoint",
        "evaluate": "users topk keep_seen history passes output",
        "recommend": "ranking",
        "export": "users topk keep_seen history passes ranking",
    },
    "model": {
        **dict.fromkeys(("OneBP", "TwoBP"), f"{CLICKS} reg confidence margin"),
        "Popularity": f"{CLICKS} {GRADIENTS} dim epochs threads reg confidence margin",
        "EASE": f"{CLICKS} {GRADIENTS} dim epochs threads confidence margin",
        "ALS": f"{CLICKS} {GRADIENTS} margin",
        "CML": f"{CLICKS} {TOWERS} reg confidence",
        **dict.fromkeys(("SVD", "SVDpp"), f"{CLICKS} {TOWERS} N confidence margin ranking"),
        "LR": f"{INTERACTIONS} layers dim hidden",
        "FM": f"{INTERACTIONS} layers hidden",
        "DeepFM": f"{INTERACTIONS} layers",
        "DCNv2": INTERACTIONS,
    },
    "memory": {"none": MEMORY, "knn": "memory_bits", "lsh": ""},
    "encoder": {"MF": "layers"},
    "sampler": {
        "uniform": "alpha candidates",
        "popularity": "candidates",
        "dns": "alpha",
        **dict.fromkeys(("inbatch", "none"), "alpha candidates N"),
    },
    "regularizer": {"decay": LAMBDAOPT, "l2": LAMBDAOPT, "lambdaopt": "l2 l2_grid"},
    "loss": {**dict.fromkeys(("InfoNCE", "BPR", "BCE"), "gamma"), "DirectAU": "temperature"},
}


def ignored_flags(args):
    """The names of the flags that do nothing, for what the flags of IGNORED are."""
    return {flag for _, flags in ignoring(args) for flag in flags}


def ignoring(args):
    """Yield (choice, names of the flags that it ignores) for the choices of IGNORED that do something themselves."""
    of_model = IGNORED["model"].get(args.model, "").split()
    for choice, ignored in IGNORED.items():
        if choice not in of_model:
            yield choice, ignored.get(getattr(args, choice), "").split()
