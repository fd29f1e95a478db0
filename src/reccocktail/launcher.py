"""What the launcher of several processes (`torchrun`, `accelerate launch`) says of this one."""

import os


def processes() -> int:
    """How many train together, on all machines; 1 without a launcher."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Number of this process, from 0."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return _number("LOCAL_RANK", 0)


def _number(variable: str, usual: int) -> int:
    """What a launcher set; what is no number was set by something else."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else usual


def is_first() -> bool:
    """Whether this process is the one that decides and writes."""
    return rank() == 0
