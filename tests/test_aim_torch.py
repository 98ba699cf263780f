"""AIM written in PyTorch from the paper and its code's facts: the same numbers.

No package has it. What the official code says of one small model is in test_golden;
here are other sizes, images that are not square, and 24 layers.
"""

from typing import Any

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import official
import peers
import pytest
import torch
from torch import nn

from mimjax.backbones import vit
from mimjax.objectives import aim, attentive


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


class Trunk(nn.Module):
    """Under the names of apple/ml-l3m; eps 1e-5 is PyTorch's own."""

    def __init__(self, encoder: vit.Encoder):
        super().__init__()
        width, patch = encoder.width, encoder.patch_size
        self.grid = encoder.grid
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

    def layers(self, image: torch.Tensor, prefix: torch.Tensor) -> list[torch.Tensor]:
        """What comes out of each layer; the patches of a prefix see each other."""
        patchifier = self.preprocessor["patchifier"]
        x = patchifier["norm"](patchifier["proj"](image).flatten(2).transpose(1, 2))
        place = torch.arange(x.shape[1])
        causal = place[None, :, None] >= place
        allowed = causal | (place < prefix[:, None])[:, None]
        x, found = x + places(*self.grid, x.shape[2]), []
        for block in self.trunk["blocks"]:
            x = block(x, allowed)
            found.append(x)
        return found


class Aim(Trunk):
    """With the head of the pretraining."""

    def __init__(self, encoder: vit.Encoder, head_width: int, head_depth: int):
        super().__init__(encoder)
        self.patch = encoder.patch_size
        self.head = nn.ModuleDict(
            {
                "decoder_projection": nn.Linear(encoder.width, head_width),
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
        x = self.trunk["post_trunk_norm"](self.layers(image, prefix)[-1])
        x = self.head["decoder_projection"](x)
        x = x + places(*self.grid, x.shape[2])
        for block in self.head["decoder_blocks"]:
            x = block(x, None)
        x = self.head["decoder_pred"](self.head["decoder_norm"](x))
        target = peers.pieces(image, self.patch)
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True, unbiased=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
        hidden = (torch.arange(x.shape[1]) >= prefix[:, None])[:, 1:].float()
        errors = (x[:, :-1] - target[:, 1:]).square().mean(-1)
        return (errors * hidden).sum() / hidden.sum(), x


class AttentiveProbe(Trunk):
    """With apple/ml-aim's head on the mean of its last layers."""

    def __init__(self, encoder: vit.Encoder, layers: int, classes: int):
        super().__init__(encoder)
        width, self.probed = encoder.width, layers
        self.heads = encoder.heads
        self.head = nn.Module()
        self.head.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.head.bn = nn.BatchNorm1d(width, eps=1e-6, affine=False)
        for name, outputs in (("k", width), ("v", width), ("linear", classes)):
            setattr(self.head, name, nn.Linear(width, outputs, bias=False))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is probed, and scores of the classes."""
        every = torch.tensor([self.grid[0] * self.grid[1]] * len(image))
        probed = torch.stack(self.layers(image, every)[-self.probed :]).mean(0)
        head, x = self.head, self.head.bn(probed.transpose(1, 2)).transpose(1, 2)
        parts = head.cls_token.expand(len(x), -1, -1), head.k(x), head.v(x)
        parts = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        x = nn.functional.scaled_dot_product_attention(*parts)
        return probed, head.linear(x.transpose(1, 2).flatten(1))


SIZES = [((32, 32), (8, 8), 2), ((16, 40), (8, 8), 3), ((24, 16), (4, 8), 24)]


def encoder_of(size, patch, depth):
    fixed = {"cls": False, "qkv_bias": "none", "bias": False, "patch_norm": True}
    sizes = {"width": 32, "depth": depth, "heads": 4, "norm_eps": 1e-5}
    return vit.Encoder(size, patch, **fixed, **sizes)


@pytest.mark.parametrize(("size", "patch", "depth"), SIZES)
def test_aim(size, patch, depth):
    encoder = encoder_of(size, patch, depth)
    ours = aim.Objective(encoder, head_width=24, head_depth=2)
    theirs = Aim(encoder, 24, 2).eval()
    peers.scatter(theirs, 0)
    peers.compares(theirs, encoder)
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


@pytest.mark.parametrize(("size", "patch", "depth"), SIZES)
def test_attentive_probe(size, patch, depth):
    probe_alike(encoder_of(size, patch, depth), trains=False)


@pytest.mark.parametrize(("size", "patch", "depth"), SIZES)
def test_attentive_probe_in_training(size, patch, depth):
    probe_alike(encoder_of(size, patch, depth), trains=True)


def probe_alike(encoder: vit.Encoder, trains: bool) -> None:
    """By the running statistics, or by those of the batch, which move them."""
    ours = attentive.Objective(encoder, num_classes=5, layers=(-2, -1))
    theirs = AttentiveProbe(encoder, 2, 5).train(trains)
    peers.scatter(theirs, 0)
    generator = torch.manual_seed(2)
    for running in (theirs.head.bn.running_mean, theirs.head.bn.running_var):
        # Small, so that eps is seen.
        running.uniform_(0.02, 0.2, generator=generator)
    peers.compares(theirs, encoder)
    image, label = peers.pictures(encoder.image_size), [4, 0, 2]
    source = peers.weights(theirs)
    moving = official.running(source)
    probed, logits = theirs(image)
    loss = nn.functional.cross_entropy(logits, torch.tensor(label))
    loss.backward()
    for unused in theirs.trunk["post_trunk_norm"].parameters():
        assert unused.grad is None
        unused.grad = torch.zeros_like(unused)

    def tree(source: official.Source) -> Any:
        trunk = official.aim_encoder(source, 4, official.ML_L3M)
        return {"encoder": trunk, **official.attentive_head(source, 4)}

    batch = {
        "image": official.nhwc(image.numpy()),
        "label": jnp.asarray(label, jnp.int32),
    }
    params = tree(source)
    assert source.unread == {"head.bn.num_batches_tracked"}
    found, _, after, grads = closeness.differentiate(
        lambda bound: bound(batch, train=trains),
        ours,
        params,
        ("probed", "logits"),
        {"moving": moving},
    )
    closeness.same_loss(found, loss.item(), peers.RELATIVE)
    outputs = after["intermediates"]
    for name, wanted in (("probed", probed), ("logits", logits)):
        (got,) = outputs[name]
        assert closeness.difference(got, wanted.detach()) <= peers.RELATIVE
    for name, wanted in official.running(peers.weights(theirs)).items():
        assert closeness.difference(after["moving"][name], wanted) <= peers.RELATIVE
    theirs = tree(peers.gradients(theirs))
    assert not any(x.any() for x in jax.tree.leaves(grads["encoder"].pop("norm")))
    theirs["encoder"].pop("norm")
    closeness.same_gradients(grads, theirs, peers.RELATIVE)
