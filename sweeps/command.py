"""The command line of a command of study.py: flags of its own, and words for main.py."""

import argparse

from cli.flags import Parser


class CommandLine(Parser):
    """Parser of `python study.py <name>`."""

    def __init__(self, name, usage, description, flags):
        """name: of the command, "" for studies; usage: what follows it; flags: its own, [Flag]"""
        program = f"study.py {name}".rstrip()
        super().__init__(
            prog=program,
            usage=f"{program} {usage}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_flags(name or "study", flags)
        self.defaults = {flag.name: flag.default for flag in flags}

    def parse(self, words):
        """Namespace of its own flags and arguments. Other words are a mistake."""
        return argparse.Namespace(**self.defaults | vars(self.parse_args(words)))

    def divide(self, words):
        """(Namespace of its own flags, [words for main.py]): those it does not know or after --."""
        end = words.index("--") if "--" in words else len(words)
        given, passed = self.parse_known_args(words[:end])
        return argparse.Namespace(**self.defaults | vars(given)), [*passed, *words[end + 1 :]]
