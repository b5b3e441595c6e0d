"""The flags of the regularizers, and what contradicts what among them. Loads without torch."""

from cli.flags import Flag, one_of, positive, whole
from cli.registry import REGULARIZERS

# What can have L2 strengths of its own under lambdaOpt, by its short form.
GRANULARITIES = {
    "g": "global",
    "d": "dimension",
    "dd": "double-dimension",
    "u": "user",
    "i": "item",
    "ui": "user+item",
    "du": "dimension+user",
    "di": "dimension+item",
    "dui": "dimension+user+item",
}

# If validation chooses strengths, a user's interactions are split 60, 20 and 20 %, as in the paper
# of lambdaOpt. lambdaOpt tunes its strengths on a share of the validation split. They overfit that
# share, so the rest of the split chooses the epoch.
TUNED = 0.9
HELD_OUT = {"select": "valid", "valid_ratio": 0.25}

LAMBDAOPT = {"regularizer": ("lambdaopt",)}
# fmt: off
FLAGS = [
    # It loads: the data of lambdaopt have one more split, to tune on.
    Flag("regularizer", "decay", one_of(*REGULARIZERS), loads=True,
         help="weight decay; L2 penalty on the rows of a batch; or L2 strengths that tune "
              "themselves"),
    Flag("granularity", "dimension+user+item", one_of(*GRANULARITIES.values(), **GRANULARITIES),
         only=LAMBDAOPT,
         help="lambdaopt: what has strengths of its own; short form: dui for dimension+user+item"),
    Flag("lambda_lr", 1e-3, positive, only=LAMBDAOPT,
         help="lambdaopt: learning rate of the strengths"),
    Flag("lambda_interval", 4, whole(1), only=LAMBDAOPT,
         help="lambdaopt: training steps per step of the strengths"),
    Flag("lambda_grad", "truncated", one_of("truncated", "full"), only=LAMBDAOPT,
         help="lambdaopt: truncated takes the gradient as a constant; full differentiates the "
              "whole step"),
    Flag("lambda_clip", 100.0, positive, only=LAMBDAOPT,
         help="lambdaopt: largest norm of the strengths' gradient"),
]
# fmt: on


def suggest(given):
    """Yield (origin, values): choosing strengths needs a validation split."""
    if given.get("regularizer") == "lambdaopt":
        yield "suggested for lambdaopt", HELD_OUT


def contradictions(args, given):
    """Yield lines about flags that contradict each other."""
    if args.regularizer == "l2" and not {"l2", "l2_grid"} & given.keys():
        yield "--regularizer l2 needs its strength, --l2, or several to try, --l2_grid"
    if args.regularizer != "lambdaopt":
        return
    if args.refit:
        yield "--refit leaves --regularizer lambdaopt no validation split to tune its strengths on"
    if args.lambda_grad == "full" and args.encoder == "LightGCN":
        yield (
            "--lambda_grad full differentiates gradients, which LightGCN's sparse products do not "
            "support; take truncated"
        )
