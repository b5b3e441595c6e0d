"""The model families. A new family: a folder with a family.py, imported and named in FAMILIES.

The two-tower family has its flags in two_tower.py and its models in model.py, at the top.
"""

from cli.registry import find
from families.baselines.family import FAMILY as BASELINES
from families.clicks.family import FAMILY as CLICKS
from families.ratings.family import FAMILY as RATINGS
from families.two_tower import FAMILY as TWO_TOWER

FAMILIES = (TWO_TOWER, BASELINES, RATINGS, CLICKS)


def models():
    """Every value of --model, {name: cli.family.Model}."""
    return {name: model for family in FAMILIES for name, model in family.models.items()}


def family_of(model):
    """The family of the model with this name."""
    return next(family for family in FAMILIES if model in family.models)


def model_class(args):
    """The class of the model that the flags `args` name, imported."""
    model = models()[args.model]
    where = model.where
    for flag, classes in model.instead.items():
        where = classes.get(getattr(args, flag), where)
    found = find({args.model: where}, args.model)
    if args.popularity_weight:
        from families.popularity_weight import weighted

        return weighted(found)
    return found


def check_memory(args, data, device):
    """Raise UserError if the model that `args` name needs more memory than there is on `device`."""
    from families.memory import check

    check(family_of(args.model), model_class(args), data, args, device, args.mode == "train")


def load_data(args):
    """The data set that the flags `args` name, as their model takes it."""
    return family_of(args.model).load_data(args)


def describe(args, data):
    """The reports.description.Description of the data set that `load_data` returned."""
    return find({args.mode: family_of(args.model).describe}, args.mode)(data)
