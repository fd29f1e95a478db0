"""Texts that begin alike, laid flat as trees of tokens, so that a shared beginning is read once.

The titles of a catalogue share brands and kinds. Sorted, each adds to the tree only what the one
before it does not have. A token's position is its depth in the tree, and it attends to the tokens
on the way to it alone, so its state is what it would be in its own sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reccocktail.prompting.encoding import TokenIds, length_batches, pad


@dataclass(frozen=True)
class Forest:
    """Trees of tokens, one a row, padded on the right.

    Attributes:
        input_ids: int64 (rows, tokens).
        depths: int64 (rows, tokens), each token's position in its sequences.
        follows: bool (rows, tokens, tokens); [r, i, j] is whether j lies on the way to i, or is i.
        sequences: number of each sequence that ends in this forest.
        ends: int64 (sequences, 2), row and place of its last token.
    """

    input_ids: Tensor
    depths: Tensor
    follows: Tensor
    sequences: list[int]
    ends: Tensor

    def to(self, device: torch.device) -> "Forest":
        """The same on a device."""
        tensors = (self.input_ids, self.depths, self.follows, self.ends)
        ids, depths, follows, ends = (tensor.to(device) for tensor in tensors)
        return Forest(ids, depths, follows, self.sequences, ends)


@dataclass
class _Tree:
    ids: TokenIds = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ways: list[list[int]] = field(default_factory=list)  # places on the way to each token
    ends: list[tuple[int, int]] = field(default_factory=list)  # sequence and its last place

    def add(self, number: int, sequence: Sequence[int], way: list[int]) -> list[int]:
        """Grow by a sequence whose first tokens stand at the places `way`; gives its whole way."""
        for token in sequence[len(way) :]:
            way = [*way, len(self.ids)]
            self.depths.append(len(way) - 1)
            self.ids.append(token)
            self.ways.append(way)
        self.ends.append((number, way[-1]))
        return way


def forests(
    sequences: Sequence[Sequence[int]],
    row_tokens: int,
    tokens: int,
    groups: Sequence[int] | None = None,
) -> Iterator[Forest]:
    """Pack sequences, each of at least one token, into forests that hold every one of them once.

    Args:
        sequences: token ids.
        row_tokens: most tokens of a tree, unless one sequence alone has more. A larger tree shares
            more, and attention over it costs more.
        tokens: most padded tokens of a forest, unless one tree alone has more.
        groups: of each sequence; no tree holds two. None lets any two share one.
    """
    trees = list(_trees(sequences, row_tokens, groups or [0] * len(sequences)))
    for batch in length_batches([len(tree.ids) for tree in trees], tokens):
        yield _stacked([trees[number] for number in batch])


def _trees(
    sequences: Sequence[Sequence[int]], row_tokens: int, groups: Sequence[int]
) -> Iterator[_Tree]:
    tree = _Tree()
    way: list[int] = []
    former: Sequence[int] = ()
    group = None
    for number in sorted(range(len(sequences)), key=lambda n: (groups[n], list(sequences[n]))):
        sequence = sequences[number]
        shared = _shared(former, sequence)
        full = len(tree.ids) + len(sequence) - shared > row_tokens
        if tree.ids and (full or groups[number] != group):
            yield tree
            tree, shared = _Tree(), 0
        way = tree.add(number, sequence, way[:shared])
        former, group = sequence, groups[number]
    if tree.ids:
        yield tree


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the beginning that two sequences share."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _stacked(trees: Sequence[_Tree]) -> Forest:
    input_ids = pad([tree.ids for tree in trees], 0)
    # Padding follows itself, because a softmax over nothing is not a number.
    follows = torch.eye(input_ids.shape[1], dtype=torch.bool).repeat(len(trees), 1, 1)
    lengths = torch.tensor([len(way) for tree in trees for way in tree.ways])
    rows = torch.tensor([row for row, tree in enumerate(trees) for _ in tree.ways])
    places = torch.tensor([place for tree in trees for place in range(len(tree.ways))])
    ways = torch.tensor([place for tree in trees for way in tree.ways for place in way])
    follows[rows.repeat_interleave(lengths), places.repeat_interleave(lengths), ways] = True
    ends = [(row, number, place) for row, tree in enumerate(trees) for number, place in tree.ends]
    return Forest(
        input_ids,
        pad([tree.depths for tree in trees], 0),
        follows,
        [number for _, number, _ in ends],
        torch.tensor([(row, place) for row, _, place in ends]),
    )
