"""Packed histories, drawn by how many targets they hold."""

from reccocktail.training.batches import DomainWindows


def windows_of(windows: DomainWindows, order: list[int], targets: int) -> list[int]:
    """Take window numbers off the end of `order` until they hold so many targets."""
    chosen: list[int] = []
    held = 0
    while order and held < targets:
        chosen.append(order.pop())
        held += len(windows.windows[chosen[-1]]) - 1
    return chosen
