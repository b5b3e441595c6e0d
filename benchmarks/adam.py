"""What do Adam by the row and compiling save on Gowalla?

A step there reads at most 6,144 of 40,981 items.

python benchmarks/adam.py [--data_dir datasets] [--rounds 3]
"""

from common import build, epochs_of, in_turns, options, show, spread

FLAGS = "--dataset Gowalla --dim 64 --lr 1e-3 "
CASES = {
    "by the row, compiled": "--compile on",
    "whole tables, compiled (--l2 1e-9)": "--compile on --l2 1e-9",
    "whole tables, eager": "--compile off",
}


def main():
    given = options(__doc__, rounds=3)
    functions = {}
    for name, flags in CASES.items():
        model, args, _ = build(FLAGS + flags, given.data_dir)
        functions[name] = epochs_of(model, args)
    seconds = in_turns(functions, given.rounds)
    rows = {name: spread(times) for name, times in seconds.items()}
    show(f"A training epoch of Gowalla, dim 64, one thread, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
