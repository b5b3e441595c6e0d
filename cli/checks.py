"""Checks of what a file of a run holds, which may come from elsewhere. Loads without torch.

Each raises ValueError, with the place of the entry and what it is not.
"""


def require(is_so, place, what):
    """Pass if it is so that the entry at `place` is a `what`."""
    if not is_so:
        raise ValueError(f"{place} is no {what}")


def table(value, place):
    """Pass a dict."""
    require(isinstance(value, dict), place, "table of names and values")


def numbers(value, place):
    """Pass a dict of numbers."""
    table(value, place)
    for name, number in value.items():
        require(type(number) in (int, float), f"{place}.{name}", "number")
