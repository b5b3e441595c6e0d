"""What does Adam by the row save on Gowalla, where a step touches 6,144 of 40,981 items?

python benchmarks/adam.py [--data_dir datasets] [--rounds 3]
"""

from common import build, epochs_of, in_turns, options, show, spread

FLAGS = "--dataset Gowalla --dim 64 --lr 1e-3 --compile {}"


def main():
    given = options(__doc__, rounds=3)
    functions = {}
    for name, compile in (("by the row, compiled", "on"), ("torch.optim.Adam's fused kernel, eager", "off")):
        model, args, _ = build(FLAGS.format(compile), given.data_dir)
        functions[name] = epochs_of(model, args)
    seconds = in_turns(functions, given.rounds)
    rows = {name: spread(times) for name, times in seconds.items()}
    show(f"A training epoch of Gowalla, dim 64, one thread, {given.rounds} rounds", rows)


if __name__ == "__main__":
    main()
