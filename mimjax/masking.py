"""Masks, drawn on the device for every sample, as integer ids of static size.

`ids` are patch numbers; `hidden` is True where a patch is to be predicted; `attn_mask`
is True where attention is allowed. Nothing here indexes by a boolean, so every shape is
known when a step is compiled.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped


def random_order(key: Key[Array, ""], batch: int, num_tokens: int) -> Int[Array, "B N"]:
    """A uniform permutation of `num_tokens` for each of `batch` samples.

    One sort of random words whose low bits hold the token number: the same permutation
    as an argsort of the noise at a fraction of its cost. With b bits for the number the
    noise keeps 32 - b bits, so two of N tokens tie (and then stay in order) with a
    chance below N^2 / 2^(33 - b): one sample in a thousand at N = 196.
    """
    low = max(1, (num_tokens - 1).bit_length())
    noise = jax.random.bits(key, (batch, num_tokens), jnp.uint32) >> low
    packed = (noise << low) | jnp.arange(num_tokens, dtype=jnp.uint32)
    return (jnp.sort(packed, axis=-1) & ((1 << low) - 1)).astype(jnp.int32)


def random_ids(
    key: Key[Array, ""], batch: int, num_tokens: int, num_kept: int
) -> tuple[Int[Array, "B K"], Int[Array, "B M"]]:
    """The ids kept and the ids hidden of each sample, uniform without replacement.

    MAE's random masking (arXiv 2111.06377, section 3): the kept ids come in random
    order.
    """
    order = random_order(key, batch, num_tokens)
    return order[:, :num_kept], order[:, num_kept:]


def take(x: Shaped[Array, "B N D"], ids: Int[Array, "B K"]) -> Shaped[Array, "B K D"]:
    """The rows `ids` of each sample."""
    return jnp.take_along_axis(x, ids[:, :, None], axis=1, mode="promise_in_bounds")


def put_back(
    x: Shaped[Array, "B N D"], ids: Int[Array, "B N"]
) -> Shaped[Array, "B N D"]:
    """Undoes `take` with a permutation: row i of x goes to place ids[i]."""
    return take(x, jnp.argsort(ids, axis=-1))


def hidden_from_ids(ids: Int[Array, "B M"], num_tokens: int) -> Bool[Array, "B N"]:
    """True at the places named by `ids`."""
    return (ids[:, :, None] == jnp.arange(num_tokens)).any(axis=1)


def placed(
    losses: Float[Array, "B M"],
    ids: Int[Array, "B M"],
    counted: Bool[Array, "B M"],
    num_tokens: int,
) -> Float[Array, "B N"]:
    """The losses that count at the places `ids`, NaN everywhere else."""
    nothing = jnp.full((len(ids), num_tokens), jnp.nan, losses.dtype)
    shown = jnp.where(counted, losses, jnp.nan)
    return nothing.at[jnp.arange(len(ids))[:, None], ids].set(shown)


def num_cells_hidden(cells: int, ratio: float) -> int:
    """How many of `cells` SimMIM hides: rounded up (official `data_simmim.py`)."""
    return math.ceil(cells * ratio)


def random_cells(
    key: Key[Array, ""], batch: int, grid: tuple[int, int], cell: int, ratio: float
) -> Bool[Array, "B N"]:
    """Hides square cells of `cell` x `cell` patches until `ratio` of them is hidden.

    SimMIM (arXiv 2111.09886, section 3.2): cells of 32 pixels whatever the patch, the
    count rounded up, so 30 of 49 cells at 224 pixels.
    """
    rows, columns = grid[0] // cell, grid[1] // cell
    count = num_cells_hidden(rows * columns, ratio)
    order = random_order(key, batch, rows * columns)
    coarse = hidden_from_ids(order[:, :count], rows * columns)
    return spread(coarse, (rows, columns), cell)


def spread(
    hidden: Bool[Array, "B M"], grid: tuple[int, int], times: int
) -> Bool[Array, "B N"]:
    """Every place of a grid as `times` x `times` places of a finer one."""
    batch, (rows, columns) = hidden.shape[0], grid
    fine = hidden.reshape(batch, rows, 1, columns, 1)
    fine = jnp.broadcast_to(fine, (batch, rows, times, columns, times))
    return fine.reshape(batch, rows * columns * times**2)


# An attempt at a block fails where it does not fit or hides nothing new or too much.
BLOCK_ATTEMPTS = 10
# Rows to columns of a block, and the inverse of that.
BLOCK_RATIO = 0.3


def block_wise(
    key: Key[Array, ""],
    batch: int,
    grid: tuple[int, int],
    most: int,
    smallest: int = 16,
) -> Bool[Array, "B N"]:
    """Hides rectangles of patches, at most `most` and often a few less.

    BEiT's blockwise masking with the distribution of the official
    `masking_generator.py`: areas are uniform from `smallest` to what is left to hide,
    shapes log-uniform from 0.3 to 1 / 0.3; after ten failures in a row the sample stays
    as it is. (Algorithm 1 of arXiv 2106.08254 stops at 40 % instead.) All try at once.
    """
    rows, columns = grid
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)

    def attempt(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        number, hidden, failures = state
        u = jax.random.uniform(jax.random.fold_in(key, number), (4, batch))
        left = most - hidden.sum(axis=(1, 2))
        area = smallest + (left - smallest) * u[0]
        ratio = jnp.exp((2 * u[1] - 1) * math.log(BLOCK_RATIO))
        # jnp.round takes halves to even, as Python does.
        height = jnp.round(jnp.sqrt(area * ratio))
        width = jnp.round(jnp.sqrt(area / ratio))
        top = jnp.floor(u[2] * (rows - height + 1))
        start = jnp.floor(u[3] * (columns - width + 1))
        sizes = top, start, height, width
        top, start, height, width = (x[:, None, None] for x in sizes)
        block = (row >= top) & (row < top + height)
        block &= (column >= start) & (column < start + width)
        new = (block & ~hidden).sum(axis=(1, 2))
        fits = (height < rows) & (width < columns)
        good = fits[:, 0, 0] & (new > 0) & (new <= left)
        good &= failures < BLOCK_ATTEMPTS
        hidden |= block & good[:, None, None]
        return number + 1, hidden, jnp.where(good, 0, failures + 1)

    def unfinished(state: tuple[Array, ...]) -> Array:
        _, hidden, failures = state
        full = hidden.sum(axis=(1, 2)) == most
        return ~(full | (failures >= BLOCK_ATTEMPTS)).all()

    hidden = jnp.zeros((batch, rows, columns), bool)
    state = (jnp.int32(0), hidden, jnp.zeros(batch, jnp.int32))
    # A GPU waits for the host before each round, so many attempts are one.
    attempts = functools.partial(jax.lax.fori_loop, 0, BLOCK_ATTEMPTS, attempt)
    _, hidden, _ = jax.lax.while_loop(unfinished, attempts, state)
    return hidden.reshape(batch, rows * columns)


def block_fits(area: int, grid: tuple[int, int]) -> bool:
    """Whether `block_wise` ever finds a block of so many patches."""
    ratios = np.geomspace(BLOCK_RATIO, 1 / BLOCK_RATIO, 99)
    height, width = (np.round(np.sqrt(area * x)) for x in (ratios, 1 / ratios))
    return bool(((height < grid[0]) & (width < grid[1])).any())


def block_ids(
    key: Key[Array, ""],
    batch: int,
    grid: tuple[int, int],
    num_kept: int,
    smallest: int,
) -> tuple[Int[Array, "B K"], Int[Array, "B M"]]:
    """Which patches are kept and hidden where blocks are hidden, exactly so many.

    What blocks of `smallest` patches or more leave over is hidden at random, as in BEiT
    v2 (official `masking_generator.py`).
    """
    num_tokens = grid[0] * grid[1]
    most = num_tokens - num_kept
    blocks, rest = (jax.random.fold_in(key, i) for i in range(2))
    hidden = block_wise(blocks, batch, grid, most, smallest)
    noise = jax.random.uniform(rest, (batch, num_tokens))
    order = jnp.argsort(noise + hidden, axis=1).astype(jnp.int32)
    return order[:, :num_kept], order[:, num_kept:]


def grid_ids(
    batch: int, grid: tuple[int, int]
) -> tuple[Int[Array, "B K"], Int[Array, "B M"]]:
    """One of every four patches is kept, always the same (MAE, table 1f)."""
    row, column = np.indices(grid)
    hidden = (row % 2 + column % 2 > 0).ravel()
    keep, drop = (np.flatnonzero(x).astype(np.int32) for x in (~hidden, hidden))
    return jnp.tile(keep, (batch, 1)), jnp.tile(drop, (batch, 1))


def first_ids(hidden: Bool[Array, "B N"], count: int) -> Int[Array, "B M"]:
    """The first `count` True places of each sample, then False ones, in order."""
    num_tokens = hidden.shape[1]
    place = jnp.arange(num_tokens)
    order = jnp.sort(jnp.where(hidden, place, place + num_tokens))
    return order[:, :count] % num_tokens


def prefix_lengths(
    key: Key[Array, ""], batch: int, num_tokens: int
) -> Int[Array, " B"]:
    """A prefix length for each sample, uniform on 1 .. num_tokens - 1.

    AIM, arXiv 2401.08541, section 3.2.
    """
    return jax.random.randint(key, (batch,), 1, num_tokens)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrefixCausal:
    """Query q may attend to key k if k <= q or k lies in the prefix of its sample.

    AIM, arXiv 2401.08541, section 3.2: the prefix is bidirectional, the rest causal.
    Kernels that know such masks need no more than the `lengths` of the prefixes.
    """

    lengths: Int[Array, " B"]

    def allowed(self, num_tokens: int) -> Bool[Array, "B N N"]:
        """Which key each query may attend to."""
        place = jnp.arange(num_tokens)
        causal = place[None, :] <= place[:, None]
        return causal[None] | (place[None, None, :] < self.lengths[:, None, None])


# What an encoder takes: True where a query may attend to a key; None: everywhere.
AttnMask = Bool[Array, "B T T"] | PrefixCausal | None


def beyond_prefix(prefix: Int[Array, " B"], num_tokens: int) -> Bool[Array, "B N"]:
    """True for the patches that are predicted: those from the prefix length on."""
    return jnp.arange(num_tokens)[None, :] >= prefix[:, None]


def masked_mean(
    losses: Float[Array, "B N"], hidden: Bool[Array, "B N"]
) -> Float[Array, ""]:
    """The mean of `losses` over the True places of the whole batch; of none 0."""
    weight = hidden.astype(losses.dtype)
    return (losses * weight).sum() / jnp.maximum(weight.sum(), 1)
