"""The Swin transformer encoder: attention in windows, four stages, ever fewer tokens.

Liu et al., arXiv 2103.14030; official code microsoft/Swin-Transformer
`models/swin_transformer.py`. Every second layer of a stage shifts its windows by half;
between stages four neighbours become one token of twice the width.
"""

from typing import Any

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from mimjax import backbones, patches
from mimjax.backbones import blocks, layers, sizes, starts, windows
from mimjax.sharding import by_sample

# Table 7 of the paper and the official configs.
SIZES: dict[str, dict[str, Any]] = {
    "T": {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "S": {"width": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
    "B": {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    "L": {"width": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48)},
}


def problems(fields: dict[str, Any]) -> list[str]:
    """What cannot work among the fields of an encoder, one line each.

    A line names every field that it depends on.
    """
    depths, heads, found = fields["depths"], fields["heads"], []
    if not depths or len(depths) != len(heads):
        found.append(
            f"depths: {depths} and heads {heads} must have one entry for each stage"
        )
    else:
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            width = fields["width"] * 2**stage
            lines = sizes.stack_problems(width, depth, count, fields["mlp_ratio"])
            # Its own fields are those of all stages.
            line = lines[0].replace("depth:", "depths:") if lines else ""
            found += [f"{line} in stage {stage + 1}"] if lines else []
    found += sizes.field_problems(fields)
    shape = sizes.grid_problems(fields["image_size"], fields["patch_size"])
    if found or shape:
        return found + shape
    grid = patches.grid_of(fields["image_size"], fields["patch_size"])
    for stage in range(len(depths)):
        window = min(fields["window"], *grid)
        wrong = [side for side in grid if side % max(1, window)]
        if window < 1 or wrong:
            found.append(
                f"window: {window} does not divide the {grid[0]} x {grid[1]} tokens of "
                f"stage {stage + 1} that image_size, patch_size and depths make"
            )
            break
        if stage + 1 < len(depths) and (grid[0] % 2 or grid[1] % 2):
            found.append(
                f"depths: the {grid[0]} x {grid[1]} tokens of stage {stage + 1} that "
                "image_size and patch_size make cannot be halved for another stage"
            )
            break
        grid = (grid[0] // 2, grid[1] // 2)
    return found


class Encoder(nn.Module, backbones.Patched):
    """Images to tokens through stages, four in the paper; the defaults are Swin-B's.

    `width` is that of the first stage and doubles with each, `depths` and `heads` have
    an entry a stage, `window` is the side of a window in tokens (at most that of the
    stage, which then does not shift: of a grid that is not square nothing looks beyond
    its window there, as officially). The other fields are those of the vision
    transformer.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (4, 4)
    channels: int = 3
    width: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 7
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: str = "none"
    unroll: int = 0
    dtype: str = "float32"

    cls = False  # there is no class token
    start = "swin"

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Width of a token coming out of each layer of each stage."""
        widths = (self.width * 2**stage for stage in range(len(self.depths)))
        return tuple(np.repeat([*widths], self.depths).tolist())

    @property
    def cell(self) -> tuple[int, int]:
        """The pixels, down and across, that a token coming out stands for."""
        times = 2 ** (len(self.depths) - 1)
        return self.patch_size[0] * times, self.patch_size[1] * times

    @property
    def out_width(self) -> int:
        """Width of a token coming out."""
        return self.width * 2 ** (len(self.depths) - 1)

    @nn.nowrap
    def layer_of(self, path: tuple[str, ...]) -> int | np.ndarray:
        """The layer of a parameter, through all stages, that of each in a stack.

        A merge is as the last layer before it (microsoft/SimMIM `optimizer.py`).
        """
        part, _, stage = path[0].partition("_")
        before = (0, *np.cumsum(self.depths).tolist())
        if part == "stages":
            return np.arange(before[int(stage)], before[int(stage) + 1]) + 1
        if part == "merges":
            return before[int(stage) + 1]
        return before[-1] + 1 if part == "norm" else 0

    def setup(self) -> None:
        start = starts.STARTS[self.start]
        self.patch = layers.Dense(
            (self.width,),
            kernel_init=start.patch,
            bias_init=start.patch_bias(self.patch_values),
            dtype=self.dtype,
        )
        self.patch_scale = layers.LayerNorm(self.norm_eps, self.dtype)
        # Drop path rises over all layers of all stages.
        rates = np.linspace(0.0, self.drop_path, sum(self.depths)).tolist()
        grid, stages, merges = self.grid, [], []
        for stage, (depth, heads) in enumerate(
            zip(self.depths, self.heads, strict=True)
        ):
            here, rates = rates[:depth], rates[depth:]
            width = self.width * 2**stage
            spec = windows.Spec(
                width=width,
                heads=heads,
                mlp_width=round(width * self.mlp_ratio),
                norm_eps=self.norm_eps,
                dropout=self.dropout,
                start=start,
                dtype=self.dtype,
                grid=grid,
                window=min(self.window, *grid),
            )
            ends = (here[0], here[-1])
            stages.append(
                blocks.Blocks(spec, depth, ends, self.remat, self.unroll, windows.Block)
            )
            if stage + 1 < len(self.depths):
                merges.append(windows.Merge(grid, self.norm_eps, self.dtype))
                grid = (grid[0] // 2, grid[1] // 2)
        self.drop = nn.Dropout(self.dropout, rng_collection="drop")
        self.stages, self.merges = stages, merges
        self.norm = layers.LayerNorm(self.norm_eps, self.dtype)

    def embed(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        """Patch embeddings, normalised."""
        return self.patch_scale(by_sample(self.patch(self.values(image))))

    def __call__(
        self, tokens: Float[Array, "B N D"], *, train: bool = False
    ) -> Float[Array, "B T E"]:
        """Tokens through all stages and the last norm."""
        x, _ = self.run(tokens, train=train)
        return self.norm(x)

    def run(
        self,
        tokens: Float[Array, "B N D"],
        *,
        train: bool = False,
        chosen: tuple[int, ...] = (),
    ) -> tuple[Float[Array, "B T E"], Float[Array, "B t d"] | None]:
        """A call without the last norm, and the mean of layers `chosen`, of one stage.

        They are counted from 1 through all stages; t and d are those of the stage.
        """
        x = self.drop(tokens.astype(self.dtype), deterministic=not train)
        mean, before = None, 0
        for stage, here in enumerate(self.stages):
            numbers = range(before + 1, before + here.depth + 1)
            own = tuple(layer - before for layer in chosen if layer in numbers)
            assert len(own) in (0, len(chosen)), chosen
            x, found = here(x, train=train, chosen=own)
            mean, before = found if own else mean, numbers[-1]
            if stage < len(self.merges):
                x = by_sample(self.merges[stage](x))
        return x, mean
