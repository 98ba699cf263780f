"""A table of names: our parameters, theirs, and how one becomes the other.

A table is a list of `Entry`, made for one model, and is read in both directions. The
rules only move numbers about, so nothing is lost either way. Tensor shapes are those of
PyTorch: a linear layer's weight is [out, in], a convolution's [out, in, rows, columns].
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How arrays of theirs become one of ours, and back."""

    take: Callable[..., np.ndarray]
    give: Callable[[np.ndarray], tuple[np.ndarray, ...]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours and what holds it there.

    Attributes:
        ours: its path, such as "encoder/blocks/layers/mlp/up/kernel".
        theirs: their names; with `layers`, "{}" stands for the number of the layer.
        rule: from `theirs` to `ours`.
        layers: length of the leading axis of ours; 0 where there is none.
        droppable: of another shape there it is left out, and nothing is wrong.
    """

    ours: str
    theirs: tuple[str, ...]
    rule: Rule
    layers: int = 0
    droppable: bool = False

    def names(self) -> list[str]:
        """All names of theirs that it needs."""
        numbers = range(self.layers or 1)
        return [name.format(i) for i in numbers for name in self.theirs]

    def read(self, arrays: Arrays) -> np.ndarray:
        """Our parameter from their arrays, a copy, filled a layer at a time."""
        parts = (
            self.rule.take(*(arrays[name.format(i)] for name in self.theirs))
            for i in range(self.layers or 1)
        )
        first = next(parts)
        if not self.layers:
            return np.array(first, order="C")
        # One layer may be in fewer bits than the next, whose numbers it cannot hold.
        kinds = {arrays[name].dtype for name in self.names()}
        kind = first.dtype if len(kinds) == 1 else np.dtype(np.float32)
        whole = np.empty((self.layers, *first.shape), kind)
        whole[0] = first
        for i, part in enumerate(parts, 1):
            if part.shape != first.shape:  # numpy would spread a single number
                name = self.theirs[0].format(i)
                raise ValueError(f"{name} is of another shape")
            whole[i] = part
        return whole

    def write(self, ours: np.ndarray) -> dict[str, np.ndarray]:
        """Their arrays from our parameter, views of it where that can be."""
        return {
            name.format(i): array
            for i, part in enumerate(ours if self.layers else [ours])
            for name, array in zip(self.theirs, self.rule.give(part), strict=True)
        }


COPY = Rule(lambda x: x, lambda x: (x,))
TRANSPOSED = Rule(lambda x: x.T, lambda x: (x.T,))
# A convolution; ours is [rows, columns, in, out].
CONV = Rule(lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))


def reshaped(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Rule:
    """The same numbers in the same order."""
    return Rule(lambda x: x.reshape(ours), lambda x: (x.reshape(theirs),))


def kernel(ours: tuple[int, ...], theirs: tuple[int, int]) -> Rule:
    """A linear layer's weight; our axes may be cut into heads and their widths."""
    return Rule(
        lambda weight: weight.T.reshape(ours),
        lambda x: (x.reshape(theirs[::-1]).T,),
    )


def patch_kernel(patch: tuple[int, int], channels: int) -> Rule:
    """A convolution over whole patches; ours is dense on (row, column, channel)."""
    return Rule(
        lambda weight: weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)),
        lambda x: (x.reshape(*patch, channels, -1).transpose(3, 2, 0, 1),),
    )


def shuffle_kernel(side: int) -> Rule:
    """A 1 x 1 convolution before a pixel shuffle; our columns are a patch's values."""

    def take(weight: np.ndarray) -> np.ndarray:
        cut = weight.reshape(-1, side, side, weight.shape[1])
        return cut.transpose(3, 1, 2, 0).reshape(weight.shape[1], -1)

    def give(x: np.ndarray) -> tuple[np.ndarray]:
        cut = x.reshape(len(x), side, side, -1).transpose(3, 1, 2, 0)
        return (cut.reshape(-1, len(x), 1, 1),)

    return Rule(take, give)


def shuffle_bias(side: int) -> Rule:
    """The bias of such a convolution."""
    return Rule(
        lambda bias: bias.reshape(-1, side, side).transpose(1, 2, 0).reshape(-1),
        lambda x: (x.reshape(side, side, -1).transpose(2, 0, 1).reshape(-1),),
    )


def stacked_kernel(heads: tuple[int, int]) -> Rule:
    """Weights of query, key and value apart, of so many heads and width of one."""

    def take(*weights: np.ndarray) -> np.ndarray:
        return np.stack([w.T.reshape(len(w.T), *heads) for w in weights], axis=1)

    def give(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(x[:, i].reshape(len(x), -1).T for i in range(3))

    return Rule(take, give)


def stacked_bias(heads: tuple[int, int]) -> Rule:
    """Their biases."""
    return Rule(
        lambda *biases: np.stack(biases).reshape(3, *heads),
        lambda x: tuple(x.reshape(3, -1)),
    )
