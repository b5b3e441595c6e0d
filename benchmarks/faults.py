"""Does the program survive what machines and users do to it?

python benchmarks/faults.py [--kills 300] [--mutations 3000] [--command_lines 1000] [--seed 1]
python benchmarks/faults.py --only mutations:17

- kills: a small run of each kind is killed (kill -9) at one to four random moments: before a change
  of files, or after a random time; one in four is asked to end, as by Ctrl-C. After each it goes on
  with --train_mode continue. It must end with the bytes of an undisturbed run, without temporary
  files and locks.
- mutations: a file is damaged (its bytes; one of its values; another file in its place), and a
  command reads it. It must work, or refuse in one line with exit status 2, without a change of the
  checkpoints and data, or a file beside its folders.
- command lines: random flags with random values. They must work or be refused likewise. What does
  not end within seconds is asked to end (SIGTERM), which is no fault. Nor is a setting for which
  1 GiB of memory is too little: these are counted.

Each fault is printed with the --only that makes it again. What happens after a random time depends
on the machine, so it may need some tries. Ctrl-C shows the table so far. Exit status 1 if there is
a fault.
"""

import os
import sys

# Read when torch is loaded. When a signal comes while two ranks find each other, torch's C++ code
# prints its stack as a warning.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from common import options, show
from injection.command_lines import CommandLines
from injection.kills import Kills
from injection.mutations import Mutations
from injection.places import Places

from cli.text import escaped

PARTS = {"kills": Kills, "mutations": Mutations, "command_lines": CommandLines}


def main():
    given = options(__doc__, kills=300, mutations=3000, command_lines=1000, seed=1, only="")
    numbers = {part: range(getattr(given, part)) for part in PARTS}
    if given.only:
        part, number = given.only.split(":")
        numbers = {part: [int(number)]}
    rows, places = {}, Places()
    try:
        for part in numbers:
            maker = PARTS[part](places, given.seed)
            for number in numbers[part]:
                found = maker.make(number)
                count(rows, part, found)
                if found.fault or given.only:
                    print(f"--only {part}:{number} --seed {given.seed}: {found.fault}")
                    print(f"    {escaped(found.what, lines=True)}", flush=True)
    except KeyboardInterrupt:
        print("interrupted: this is the table so far")
    rows["all"] = {column: sum(row.get(column, 0) for row in rows.values()) for column in COLUMNS}
    show(f"Faults that were made, seed {given.seed}", rows)
    return 1 if rows["all"]["faults"] else 0


COLUMNS = ("runs", "kills", "worked", "refused", "out of memory", "stopped", "faults")


def count(rows, part, found):
    """Add what was Found to the row of its kind."""
    row = rows.setdefault(f"{part}: {found.kind}", dict.fromkeys(COLUMNS, 0))
    row["runs"] += 1
    row["kills"] += found.kills
    row["faults" if found.fault else found.end] += 1


if __name__ == "__main__":
    sys.exit(main())
