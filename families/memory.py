"""What a model needs of the memory, told before any of it is taken.

All of it is a lower bound, so that a run that works is never refused.
"""

import torch
from torch.overrides import TorchFunctionMode

from cli import launch
from cli.errors import UserError
from engine.memory import free_memory, in_words
from recommender import BatchTrained

MOMENTS = {"Adam": 2, "SGD": 0}  # numbers that an optimizer keeps for each weight
# Flags that can be lowered, if the need is too large.
SIZES = ("dim", "batch_size", "hidden", "layers", "N", "candidates", "memory_size", "memory_bits")


class NoGenerator(torch.Generator):
    """Stands for a generator on PyTorch's device "meta": tensors there have a shape, no numbers."""

    device = torch.device("meta")


class NoNumbers(TorchFunctionMode):
    """Skips what only changes the numbers of a tensor that has none.

    There would be nothing to do, but PyTorch would first load 800 modules, which takes 2 s.
    """

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        name = getattr(function, "__name__", "")
        tensor = arguments[0] if arguments else options.get("tensor")
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if in_place and isinstance(tensor, torch.Tensor) and tensor.is_meta:
            return tensor
        if isinstance(options.pop("generator", None), NoGenerator):  # torch.randn and the like
            function = torch.empty
        return function(*arguments, **options)


def check(family, model_class, data, args, device, trains):
    """Raise UserError if a model needs more memory than is free.

    family: cli.family.Family of the model
    args: the flags as given; --batch_size is that of all processes
    trains: whether it is to be trained, or only used
    """

    def need(**values):
        changed = args.replace(**values)
        # Of several processes, each has at least so much of a batch.
        size = changed.batch_size // launch.world_size()
        return needed(family, model_class, data, changed.replace(batch_size=size), trains)

    free, words = free_memory(device)
    sizes = need()
    if sum(sizes.values()) <= free:
        return
    total = sum(sizes.values())
    parts = sorted(sizes.items(), key=lambda part: -part[1])
    parts = ", ".join(f"{in_words(size)} for {what}" for what, size in parts if size > 0.01 * total)
    advice = "take a machine with more memory"
    if trains:
        advice = advice_on(args, lambda **values: sum(need(**values).values()) <= free) or (
            f"no flag helps alone: {advice}, or another --model"
        )
    what = "training" if trains else f"the trained {args.model}"
    raise UserError(f"{what} needs at least {in_words(total)} ({parts}), and {words}; {advice}")


def needed(family, model_class, data, args, trains):
    """{what: bytes, at least} of the memory of the device. Arguments: see `check`"""
    # A step is not compiled if no batch is whole.
    compiles = args.compile != "off" and args.batch_size <= data.counts()["train"]
    sizes = {}
    if issubclass(model_class, BatchTrained) and (model := outline(model_class, data, args)):
        compiles = compiles and model.encoder.compiles
        sizes = tables(model, trains, by_row=compiles and model.encoder.by_row)
    return sizes | (family.memory(args, data, compiles) if trains else {})


def outline(model_class, data, args):
    """A BatchTrained with an encoder whose weights have a shape, but no numbers.

    None if the encoder looks at its numbers while it is made: such a model is not counted.
    """
    model = model_class.__new__(model_class)
    model.data, model.args, model.device = data, args, NoGenerator.device
    model.generator = NoGenerator()
    try:
        with NoNumbers():
            model.encoder = model.make_encoder()
    except (AttributeError, NotImplementedError, RuntimeError):
        return None
    model.weights = dict(model.encoder.named_parameters())
    return model


def tables(model, trains, by_row):
    """{what: bytes} of the weights of a model and, to train it, of what each weight has.

    model: from `outline`
    by_row: whether a step may have the gradients of its batch's rows alone
    """
    weights, optimizer = model.weights, model.args.optimizer
    largest = sorted(weights, key=lambda name: -weights[name].numel())[:2]
    shapes = (f"{name} {' x '.join(f'{n:,}' for n in weights[name].shape)}" for name in largest)
    sizes = {f"the weights ({', '.join(shapes)})": size_of(weights)}
    if trains:
        trained = size_of(model.trained_weights())
        # With several processes, each may have the moments of its piece of a table alone, and
        # gradients of the rows of its batch alone.
        ranks = launch.world_size()
        sizes["their moments"] = MOMENTS[optimizer] * trained // ranks
        sizes["their gradients"] = 0 if ranks > 1 or (by_row and optimizer == "Adam") else trained
    return sizes


def size_of(weights):
    """Bytes of {name: tensor}."""
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def advice_on(args, fits):
    """Which flag to lower, and to what: the one that keeps most of its value.

    It is the only one to lower; "" if no single flag is enough.

    fits: function(flag=value) -> whether the need is small enough
    """
    best, advice = 0.0, ""
    for flag in (flag for flag in SIZES if flag in vars(args).keys() - args.ignored()):
        # Halve the range in which the largest value that fits is.
        value = getattr(args, flag)
        most = max(value) if isinstance(value, list) else value
        low, high = 0, most  # it is at least low, and below high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(**{flag: lowered(value, middle)}) else (low, middle)
        # Take the flag if it is lowered less than those before.
        low = rounded_down(low)
        if low / most > best:
            text = " ".join(map(str, lowered(value, low))) if isinstance(value, list) else low
            best, advice = low / most, f"take --{flag} {text} or less"
    return advice


def rounded_down(number):
    """A whole number with its first two digits: 1719 -> 1700."""
    zeros = 10 ** max(len(str(number)) - 2, 0)
    return number // zeros * zeros


def lowered(value, most):
    """A value of a flag, or each of its values, but no more than `most`."""
    return [min(one, most) for one in value] if isinstance(value, list) else most
