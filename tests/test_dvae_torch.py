"""DALL-E's discrete VAE written in PyTorch from its code's facts: the same numbers.

The evidence lower bound is the paper's (arXiv 2102.12092, section 2.1 and appendix A),
whose code was never published. What the official networks say of one small model is in
test_golden.
"""

import math
from collections import OrderedDict
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
from torch.nn import functional

from mimjax.objectives import dvae
from mimjax.tokenizers import dvae as networks


class Conv(nn.Module):
    """Stride 1, zeros around; the parameters have OpenAI's names."""

    def __init__(self, inputs: int, outputs: int, side: int):
        super().__init__()
        self.w = nn.Parameter(torch.empty(outputs, inputs, side, side))
        self.b = nn.Parameter(torch.empty(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.w, self.b, padding="same")


class Block(nn.Module):
    """`id_path` is a convolution only where channels change."""

    def __init__(self, inputs: int, outputs: int, sides: list[int], gain: float):
        super().__init__()
        self.gain = gain
        self.id_path = nn.Identity() if inputs == outputs else Conv(inputs, outputs, 1)
        path, widths = OrderedDict(), [inputs, *[outputs // 4] * 3, outputs]
        for number, side in enumerate(sides, 1):
            path[f"relu_{number}"] = nn.ReLU()
            path[f"conv_{number}"] = Conv(*widths[number - 1 : number + 1], side)
        self.res_path = nn.Sequential(path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


class Side(nn.Module):
    """The encoder or, with what its groups end in turned around, the decoder."""

    def __init__(self, ends: list[Conv], widths: list[int], blocks: int, encodes: bool):
        super().__init__()
        sides = [3, 3, 3, 1] if encodes else [1, 3, 3, 3]
        gain = 1 / ((len(widths) - 1) * blocks) ** 2
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=ends[0])
        for group in range(1, len(widths)):
            inputs, outputs = widths[group - 1 : group + 1]
            body: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(1, blocks + 1):
                body[f"block_{block}"] = Block(inputs, outputs, sides, gain)
                inputs = outputs
            if group + 1 < len(widths):
                body["pool"] = (
                    nn.MaxPool2d(2) if encodes else nn.Upsample(scale_factor=2)
                )
            parts[f"group_{group}"] = nn.Sequential(body)
        output = OrderedDict(relu=nn.ReLU(), conv=ends[1])
        self.blocks = nn.Sequential(parts | {"output": nn.Sequential(output)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class Dvae(nn.Module):
    def __init__(self, encoder: networks.Encoder, first: int):
        super().__init__()
        colours, codes = encoder.channels, encoder.num_codes
        widths = [encoder.width * 2**group for group in range(encoder.groups)]
        ends = [Conv(colours, widths[0], 7), Conv(widths[-1], codes, 1)]
        self.encoder = Side(ends, [widths[0], *widths], encoder.blocks, True)
        ends = [Conv(codes, first, 1), Conv(widths[0], 2 * colours, 1)]
        self.decoder = Side(ends, [first, *widths[::-1]], encoder.blocks, False)

    def forward(
        self, image: torch.Tensor, noise: torch.Tensor, heat: float, weight: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, scores of the vocabulary, and what is known of pixels.

        `noise` is Gumbel's and `heat` the temperature; `weight` is that of the KL.
        """
        mapped = 0.8 * image + 0.1
        logits = self.encoder(mapped)
        known = self.decoder(((logits + noise) / heat).softmax(1))
        mean, log_width = known.chunk(2, 1)
        # Of the logit of a pixel; its density is over (0, 1).
        laplace = torch.distributions.Laplace(mean, log_width.exp())
        sigmoid = torch.distributions.SigmoidTransform()
        density = torch.distributions.TransformedDistribution(laplace, [sigmoid])
        tokens = torch.distributions.Categorical(logits=logits.movedim(1, -1))
        even = torch.distributions.Categorical(torch.ones(logits.shape[1]))
        kl = torch.distributions.kl_divergence(tokens, even).sum((1, 2)).mean()
        bound = -density.log_prob(mapped).mean() + weight * kl / image[0].numel()
        return bound, logits, known


@pytest.mark.parametrize(
    ("size", "width", "groups", "blocks"),
    [((16, 16), 16, 4, 2), ((16, 24), 12, 3, 1), ((24, 8), 16, 2, 3)],
)
def test_dvae(size, width, groups, blocks):
    """At the third update, with the noise that would have been drawn."""
    encoder = networks.Encoder(
        size, width=width, groups=groups, blocks=blocks, num_codes=20
    )
    ours = dvae.Objective(encoder, 12, temperature_steps=8, kl_steps=4)
    theirs = Dvae(encoder, 12)
    peers.scatter(theirs, 0)
    peers.compares(theirs, encoder)
    image = peers.pictures(size).sigmoid()

    def call(bound: dvae.Objective) -> Any:
        batch = {"image": official.nhwc(image.numpy()), "step": jnp.int32(3)}
        return bound(batch, train=True)

    source, rngs = peers.weights(theirs), {"drop": jax.random.key(0)}
    params = official.dalle(source)
    assert not source.unread
    found, _, after, grads = closeness.differentiate(
        call, ours, params, ("logits", "decoder"), rngs=rngs
    )
    drawn = ours.apply({}, rngs=rngs, method=lambda bound: bound.make_rng("drop"))
    noise = jax.random.gumbel(drawn, (len(image), encoder.num_tokens, 20))
    noise = torch.from_numpy(np.array(noise)).mT.unflatten(2, encoder.grid)
    # Half a cosine from 1 to 1/16 in 8 updates, and from 0 to 6.6 in 4.
    heat = 1 / 16 + 15 / 32 * (1 + math.cos(math.pi * 3 / 8))
    weight = 6.6 * (1 - math.cos(math.pi * 3 / 4)) / 2
    loss, logits, known = theirs(image, noise, heat, weight)
    loss.backward()
    closeness.same_loss(found, loss.item(), peers.RELATIVE)
    outputs = after["intermediates"]
    for got, wanted in (
        (outputs["encoder"]["logits"], logits),
        (outputs["decoder"]["__call__"], known),
    ):
        wanted = official.nhwc(wanted.detach().numpy())
        got = got[0].reshape(wanted.shape)
        assert closeness.difference(got, wanted) <= peers.RELATIVE
    theirs = official.dalle(peers.gradients(theirs))
    closeness.same_gradients(grads, theirs, peers.RELATIVE)
