"""What the launcher of several processes (`torchrun`, `accelerate launch`) says of this one."""

import os


def processes() -> int:
    """How many train together, on all machines; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK") or 0)


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def is_first() -> bool:
    """Whether this process is the one that decides and writes."""
    return rank() == 0
