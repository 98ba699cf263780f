"""AIM written in PyTorch from the paper and its code's facts: the same numbers.

No package has it. What the official code says of one small model is in test_golden;
here are other sizes, images that are not square, and 24 layers.
"""

from typing import Any

import closeness
import jax.numpy as jnp
import numpy as np
import official
import parity_table
import peers
import pytest
import torch
from torch import nn

from mimjax.backbones import vit
from mimjax.objectives import aim


def places(rows: int, columns: int, width: int) -> torch.Tensor:
    """Sines and cosines of the column, then of the row (`SinCosPosEmbed`)."""
    halves = []
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    for place in (grid[1], grid[0]):
        omega = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) * 4 / width)
        angle = place.reshape(-1, 1).double() * omega
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, 1).float()[None]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "proj"):
            setattr(self, name, nn.Linear(width, width, bias=False))

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        parts = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        q, k, v = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~allowed[:, None], float("-inf"))
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Without heads attention is the identity, as in the official head."""

    def __init__(self, width: int, heads: int = 0):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = Mlp(width)
        if heads:
            self.attn = Attention(width, heads)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        y = self.norm_1(x)
        x = x + (y if allowed is None else self.attn(y, allowed))
        return x + self.mlp(self.norm_2(x))


class Aim(nn.Module):
    """Under the names of apple/ml-l3m; eps 1e-5 is PyTorch's own."""

    def __init__(self, encoder: vit.Encoder, head_width: int, head_depth: int):
        super().__init__()
        width, patch = encoder.width, encoder.patch_size
        self.grid, self.patch = encoder.grid, patch
        proj = nn.Conv2d(encoder.channels, width, patch, patch)
        self.preprocessor = nn.ModuleDict(
            {"patchifier": nn.ModuleDict({"proj": proj, "norm": nn.LayerNorm(width)})}
        )
        blocks = nn.ModuleList(
            Block(width, encoder.heads) for _ in range(encoder.depth)
        )
        self.trunk = nn.ModuleDict(
            {"blocks": blocks, "post_trunk_norm": nn.LayerNorm(width)}
        )
        self.head = nn.ModuleDict(
            {
                "decoder_projection": nn.Linear(width, head_width),
                "decoder_blocks": nn.ModuleList(
                    Block(head_width) for _ in range(head_depth)
                ),
                "decoder_norm": nn.LayerNorm(head_width),
                "decoder_pred": nn.Linear(head_width, encoder.patch_values),
            }
        )

    def forward(
        self, image: torch.Tensor, prefix: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and what is predicted at every place."""
        patchifier = self.preprocessor["patchifier"]
        x = patchifier["norm"](patchifier["proj"](image).flatten(2).transpose(1, 2))
        place = torch.arange(x.shape[1])
        causal = place[None, :, None] >= place
        allowed = causal | (place < prefix[:, None])[:, None]
        x = x + places(*self.grid, x.shape[2])
        for block in self.trunk["blocks"]:
            x = block(x, allowed)
        x = self.head["decoder_projection"](self.trunk["post_trunk_norm"](x))
        x = x + places(*self.grid, x.shape[2])
        for block in self.head["decoder_blocks"]:
            x = block(x, None)
        x = self.head["decoder_pred"](self.head["decoder_norm"](x))
        cut = image.unfold(2, self.patch[0], self.patch[0])
        cut = cut.unfold(3, self.patch[1], self.patch[1])
        target = cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True, unbiased=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
        hidden = (place >= prefix[:, None])[:, 1:].float()
        errors = (x[:, :-1] - target[:, 1:]).square().mean(-1)
        return (errors * hidden).sum() / hidden.sum(), x


@pytest.mark.parametrize(
    ("size", "patch", "depth"),
    [((32, 32), (8, 8), 2), ((16, 40), (8, 8), 3), ((24, 16), (4, 8), 24)],
)
def test_aim(size, patch, depth):
    encoder = vit.Encoder(
        size,
        patch,
        width=32,
        depth=depth,
        heads=4,
        cls=False,
        qkv_bias="none",
        bias=False,
        patch_norm=True,
        norm_eps=1e-5,
    )
    ours = aim.Objective(encoder, head_width=24, head_depth=2)
    theirs = Aim(encoder, 24, 2).eval()
    peers.scatter(theirs, 0)
    parity_table.compares("official", "AIM, written in PyTorch here", encoder)
    image = peers.pictures(size)
    prefix = torch.tensor([1, encoder.num_tokens // 2, encoder.num_tokens - 1])
    heard = peers.listen(theirs, "trunk.post_trunk_norm")
    loss, predicted = theirs(image, prefix)
    loss.backward()

    def tree(source: official.Source) -> Any:
        return official.aim(source, 4)

    source = peers.weights(theirs)
    result = closeness.ask(
        ours,
        tree(source),
        official.nhwc(image.numpy()),
        jnp.asarray(prefix.numpy(), jnp.int32),
    )
    assert not source.unread
    grads = tree(peers.gradients(theirs))
    peers.agree(result, loss, heard, np.asarray(predicted.detach()), grads)
