"""Signals that ask a program to end: each does it as Ctrl-C, once, with a status of its own."""

import signal
from contextlib import contextmanager

NOTICE = signal.SIGUSR1  # of a scheduler: the time is nearly over
# Ctrl-C; the end of a job or of a container; a closed terminal; the notice.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, NOTICE)


class Ended(KeyboardInterrupt):
    """A signal asks the program to end. number: that of the signal."""

    def __init__(self, number):
        super().__init__()
        self.number = number


@contextmanager
def ending_signals():
    """In the block, the first signal of ENDING raises Ended; further ones are ignored.

    Yields a list of the numbers of those that came. A signal that was ignored when the program was
    started (`nohup`, a script in the background) stays ignored.
    """
    received = []

    def receive(number, frame):
        received.append(number)
        if len(received) == 1:
            raise Ended(number)

    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    handlers = {number: signal.signal(number, receive) for number in heeded}
    try:
        yield received
    finally:
        if not received:  # else a second Ctrl-C while Python exits would print a traceback
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def defer_interrupts(*numbers):
    """Let signals wait until the block ends: those of `numbers`, by default all of ENDING.

    Ctrl-C while C++ code (an import, torch.save) calls Python would abort the process; so it is
    raised after the block. Yields a list of the numbers of those that came. What is ignored, or
    ends the process without Python, stays so.
    """
    received = []
    handlers = {number: signal.getsignal(number) for number in numbers or ENDING}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in received:
        handlers[number](number, None)
