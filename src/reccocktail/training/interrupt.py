"""An interrupt (Ctrl-C) that waits for the end of a step, so that the step is kept."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from reccocktail.launcher import processes
from reccocktail.progress import say


class Interrupt:
    """Whether an interrupt came, and whether the run was ended early for it."""

    asked = False
    obeyed = False


@contextmanager
def interruptible(name: str) -> Iterator[Interrupt]:
    """Have the first interrupt of the block only ask for an end; the second is raised at once.

    Where interrupts are another's to handle, they stay so: outside of the main thread, under
    another handler, and of several processes, which their launcher ends without waiting for a save.

    Args:
        name: of what is trained, for the person at the terminal.
    """
    interrupt = Interrupt()
    handler = signal.getsignal(signal.SIGINT)
    ours = handler is signal.default_int_handler and processes() == 1
    if not ours or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.asked:
            raise KeyboardInterrupt
        interrupt.asked = True
        if os.getpid() == owner:  # workers that make batches inherit the handler
            say(f"{name}: stopping after this step; interrupt again to lose it and stop at once.")

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, handler)
