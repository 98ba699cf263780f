"""SimMIM: mask tokens in the encoder, raw pixels out of one linear layer.

Xie et al., arXiv 2111.09886; official code microsoft/SimMIM `models/simmim.py`,
`data/data_simmim.py`. 60 % of cells of 32 pixels are hidden and the loss is the mean
absolute error over hidden pixels.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mimjax import masking, patches
from mimjax.backbones import layers, starts, swin, vit


class Objective(nn.Module):
    """SimMIM on any encoder; `mask_cell` is the side of a cell in pixels.

    A cell holds one or more of the encoder's own, the pixels that a token coming out
    stands for: `hidden` and what is predicted go by these.
    """

    encoder: vit.Encoder | swin.Encoder
    mask_ratio: float = 0.6
    mask_cell: int = 32

    encoder_note = "others see hidden pixels through overlapping convolutions"
    panel_note = "the loss never sees what the decoder makes of visible patches"

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        cell, (height, width) = self.mask_cell, self.encoder.image_size
        token, other = self.encoder.cell
        found = []
        if not 0 < self.mask_ratio < 1:
            found.append(f"mask_ratio: {self.mask_ratio} must be above 0, below 1")
        if token != other:
            size = self.encoder.patch_size
            found.append(f"mask_cell: needs a square patch_size, not {size}")
        elif cell < 1 or cell % token or height % cell or width % cell:
            times = token // self.encoder.patch_size[0]
            unit = "patch_size" if times == 1 else f"{times} x patch_size"
            found.append(
                f"mask_cell: {cell} must be a multiple of {unit} ({token}) and "
                f"divide image_size ({height} x {width})"
            )
        if found:
            return found
        count, cells = self.hidden_cells
        if not 0 < count < cells:
            found.append(
                f"mask_ratio: {self.mask_ratio} hides {count} of the {cells} cells "
                "that mask_cell and image_size make (both sides need at least one)"
            )
        return found

    @property
    def hidden_cells(self) -> tuple[int, int]:
        """How many cells of an image are hidden, and how many there are."""
        cells = math.prod(side // self.mask_cell for side in self.encoder.image_size)
        return masking.num_cells_hidden(cells, self.mask_ratio), cells

    @property
    def share_hidden(self) -> float:
        """The share of patches that `mask_ratio` comes to."""
        hidden, cells = self.hidden_cells
        return hidden / cells

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens that come out of the encoder."""
        return patches.grid_of(self.encoder.image_size, self.encoder.cell)

    def setup(self) -> None:
        encoder = self.encoder
        start = starts.STARTS[encoder.start]
        shape = (1, 1, encoder.width)
        self.mask_token = starts.param(self, "mask_token", start.cls, shape)
        # The official 1 x 1 convolution starts as PyTorch's do. Its pixel shuffle is
        # the order of the columns here.
        self.decoder = layers.Dense(
            (encoder.cell[0] * encoder.cell[1] * encoder.channels,),
            kernel_init=starts.torch_dense,
            bias_init=starts.uniform_fan_in(encoder.out_width),
            dtype=encoder.dtype,
            rounds=False,
        )

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        hidden = self.draw(batch["image"].shape[0])
        predicted = self.predict(batch["image"], hidden, train=train)
        return self.loss(batch["image"], predicted, hidden), {}

    def draw(self, batch: int) -> Bool[Array, "B N"]:
        """Which cells of each image are hidden."""
        key = self.make_rng("mask")
        cell = self.mask_cell // self.encoder.cell[0]
        return masking.random_cells(key, batch, self.grid, cell, self.mask_ratio)

    def predict(
        self,
        image: Float[Array, "B H W C"],
        hidden: Bool[Array, "B N"],
        *,
        train: bool = False,
    ) -> Float[Array, "B N P"]:
        """Pixels of every cell; patches of a hidden one become the mask token."""
        tokens = self.encoder.embed(image)
        times = self.encoder.cell[0] // self.encoder.patch_size[0]
        fine = masking.spread(hidden, self.grid, times)
        tokens = patches.masked(tokens, fine, self.mask_token)
        x = self.encoder(tokens, train=train)
        return self.decoder(self.encoder.patch_tokens(x))

    def loss(
        self,
        image: Float[Array, "B H W C"],
        predicted: Float[Array, "B N P"],
        hidden: Bool[Array, "B N"],
    ) -> Float[Array, ""]:
        """Mean absolute error over hidden pixels and channels.

        The official 1e-5 beside the number of hidden pixels is lost in float32 from 256
        of them on, and left out.
        """
        return masking.masked_mean(self.losses(image, predicted), hidden)

    def losses(
        self, image: Float[Array, "B H W C"], predicted: Float[Array, "B N P"]
    ) -> Float[Array, "B N"]:
        """Mean absolute error of every cell, hidden or not."""
        target = patches.patchify(image, self.encoder.cell)
        return jnp.abs(predicted - target).mean(axis=-1)

    def patch_losses(self, batch: dict[str, Array]) -> Float[Array, "B N"]:
        """The loss of every hidden cell."""
        hidden = self.draw(batch["image"].shape[0])
        predicted = self.predict(batch["image"], hidden)
        return jnp.where(hidden, self.losses(batch["image"], predicted), jnp.nan)

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Original, visible patches, reconstruction, and both together."""
        hidden = self.draw(batch["image"].shape[0])
        predicted = self.predict(batch["image"], hidden)
        values = patches.patchify(batch["image"], self.encoder.cell)
        hide = hidden[:, :, None]
        shown = {
            "original": values,
            "masked": jnp.where(hide, 0.0, values),
            "reconstruction": predicted,
            "reconstruction + visible": jnp.where(hide, predicted, values),
        }
        size = (self.encoder.image_size, self.encoder.cell)
        return {name: patches.unpatchify(x, *size) for name, x in shown.items()}
