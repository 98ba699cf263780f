"""PyTorch models of others with random weights: what they say, and whether we agree.

Losses, tokens after the last norm, predictions and the gradients of every parameter to
1e-5 relative in float32, 24 layers deep too: the largest difference in a tensor against
the largest entry of that tensor.
"""

from collections.abc import Callable
from typing import Any

import closeness
import jax.numpy as jnp
import official
import parity_table
import torch

RELATIVE = 1e-5
# Its tensors are tiny here: threads only wait for each other.
torch.set_num_threads(1)


def scatter(model: torch.nn.Module, seed: int) -> None:
    """Makes every trained parameter random and far from zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        noise = torch.randn(weight.shape, generator=generator)
        scale = 0.1 if weight.ndim == 1 else weight[0].numel() ** -0.5
        is_norm_scale = weight.ndim == 1 and name.endswith("weight")
        weight.data = noise * scale + (1.0 if is_norm_scale else 0.0)


def weights(model: torch.nn.Module) -> official.Source:
    return official.Source({k: v.numpy() for k, v in model.state_dict().items()})


def gradients(model: torch.nn.Module) -> official.Source:
    named = model.named_parameters()
    grads = {k: v.grad.numpy() for k, v in named if v.grad is not None}
    trained = {k for k, v in model.named_parameters() if v.requires_grad}
    assert set(grads) == trained
    return official.Source(grads)


def pictures(size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    return torch.randn((3, channels, *size), generator=torch.manual_seed(1))


def pieces(image: torch.Tensor, patch: tuple[int, int]) -> torch.Tensor:
    """Images as rows of patches; in each the channel is the fastest."""
    cut = torch.nn.functional.unfold(image, patch, stride=patch)
    return cut.unflatten(1, (image.shape[1], -1)).permute(0, 3, 2, 1).flatten(2)


def listen(model: torch.nn.Module, name: str) -> list[torch.Tensor]:
    """What will come out of a module."""
    heard: list[torch.Tensor] = []
    module = model.get_submodule(name)
    module.register_forward_hook(lambda *call: heard.append(call[-1].detach()))
    return heard


def compares(theirs: torch.nn.Module, encoder: Any) -> None:
    """Says what a test compares, for the table of all comparisons."""
    package = type(theirs).__module__.partition(".")[0]
    if package not in parity_table.PEERS:
        package = parity_table.HERE
    parity_table.compares(package, f"`{type(theirs).__name__}`", encoder)


def agree(
    ours: closeness.Answer,
    loss: Any,
    tokens: list[torch.Tensor],
    predicted: Any,
    grads: Any,
) -> None:
    """Loss, tokens of the encoder, prediction and gradients, all in our layout."""
    closeness.same_loss(ours.loss, loss.item(), RELATIVE)
    (encoded,) = tokens
    encoded = encoded.numpy().reshape(ours.encoded.shape)
    assert closeness.difference(ours.encoded, encoded) <= RELATIVE
    assert closeness.difference(ours.predicted, predicted) <= RELATIVE
    if ours.grads is not None:
        closeness.same_gradients(ours.grads, grads, RELATIVE)


def classify_alike(
    theirs: torch.nn.Module,
    ours: Any,
    tree: Callable[[official.Source], Any],
    norm: str,
    differentiate: bool = True,
) -> set[str]:
    """Checks a classifier of five; `norm` is its last, `tree` the table of names.

    Returns the weights that nobody has read.
    """
    encoder = ours.encoder
    compares(theirs, encoder)
    image, label = pictures(encoder.image_size, encoder.channels), [4, 0, 2]
    heard = listen(theirs, norm)
    logits = theirs(image)
    logits = getattr(logits, "logits", logits)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(label))
    loss.backward()
    source = weights(theirs)
    result = closeness.ask(
        ours,
        tree(source),
        official.nhwc(image.numpy()),
        jnp.asarray(label, jnp.int32),
        differentiate=differentiate,
        # Where the norm follows the mean it is not the encoder's.
        heard="fc_norm" if ours.pool == "mean" else "encoder",
    )
    agree(result, loss, heard, logits.detach().numpy(), tree(gradients(theirs)))
    return source.unread
