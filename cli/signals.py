"""Signals that ask a program to end: each does it as Ctrl-C, once, with a status of its own."""

import signal
import sys
import weakref
from contextlib import contextmanager

NOTICE = signal.SIGUSR1  # of a scheduler: the time is nearly over
# Ctrl-C; the end of a job or of a container; a closed terminal; the notice.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, NOTICE)
AGAIN, PAUSE = signal.SIGALRM, 0.05  # seconds until an exception that was dropped is raised again


class Ended(KeyboardInterrupt):
    """A signal asks the program to end. number: that of the signal."""

    def __init__(self, number):
        super().__init__()
        self.number = number


def end_silently():
    """Let Ctrl-C end the program without a traceback where `ending_signals` is not in effect.

    That is before and after the work. Called once, by the program that was started.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def ending_signals(received):
    """In the block, the first signal of ENDING raises Ended; further ones are ignored.

    received: a list, which gets the numbers of those that come

    It may be raised at the edges of the block, too: catch it outside. Destructors, and C++ code
    that calls Python, may drop an exception: then it is raised again, a little later. A signal that
    was ignored when the program was started (`nohup`, a script in the background) stays ignored.
    """
    raised, over, show = None, False, sys.unraisablehook

    def receive(number, frame):
        nonlocal raised
        if number != AGAIN:
            received.append(number)
        if received and not over and (raised is None or raised() is None):
            ended = Ended(received[0])
            raised = weakref.ref(ended, repeat)
            try:
                raise ended
            finally:
                del ended  # this frame is in its traceback: else neither would ever be freed

    def repeat(dropped):
        if not over:
            signal.setitimer(signal.ITIMER_REAL, PAUSE)

    def show_others(what):
        if what.exc_type is not Ended:
            show(what)

    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    handlers = {number: signal.signal(number, receive) for number in (*heeded, AGAIN)}
    sys.unraisablehook = show_others
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = show
        if not received:  # else a second Ctrl-C while Python exits would print a traceback
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def defer_interrupts(*numbers):
    """Let signals wait until the block ends: those of `numbers`, by default all that end it.

    Ctrl-C while C++ code (an import, torch.save) calls Python would abort the process; so it is
    raised after the block. Yields a list of the numbers of those that came. What is ignored, or
    ends the process without Python, stays so.
    """
    received = []
    handlers = {number: signal.getsignal(number) for number in numbers or (*ENDING, AGAIN)}
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
