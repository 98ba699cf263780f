"""Methods on a vision transformer beside PyTorch ones of `vits`: the same numbers.

What the official code says of one small model is in test_golden and test_beit2; here
are other sizes, images that are not square, and 24 layers.
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
import vits
from torch.nn import functional

from mimjax import frozen
from mimjax.backbones import vit
from mimjax.objectives import beit2, classify, mpp, simmim, vqkd

SIZES = [((32, 32), 8, 2), ((16, 40), 8, 3), ((24, 16), 4, 24)]
HALF = (0.5,), (0.5,)
# BEiT's, which SimMIM has taken over.
BEIT: dict[str, Any] = {"qkv_bias": "qv", "position": "relative", "layer_scale": 0.1}


def encoder_of(size, patch, depth, **fields):
    fields = {"width": 32, "heads": 4, **fields}
    return vit.Encoder(size, (patch, patch), depth=depth, **fields)


def hidden_of(num_tokens: int, count: int) -> torch.Tensor:
    """So many places of three images."""
    noise = torch.rand((3, num_tokens), generator=torch.manual_seed(3))
    return noise.argsort(1).argsort(1) < count


def array(x: torch.Tensor) -> jax.Array:
    """Of PyTorch's, whole numbers as int32."""
    found = x.detach().numpy()
    return jnp.asarray(found, jnp.int32 if found.dtype == np.int64 else None)


@pytest.mark.parametrize(("size", "patch", "depth"), SIZES)
def test_simmim(size, patch, depth):
    encoder = encoder_of(size, patch, depth, **BEIT)
    ours, theirs = simmim.Objective(encoder, mask_cell=patch), vits.Simmim(encoder)
    peers.scatter(theirs, 0)
    peers.compares(theirs, encoder)
    image = peers.pictures(size)
    hidden = hidden_of(encoder.num_tokens, encoder.num_tokens * 3 // 5)
    heard = peers.listen(theirs, "encoder.norm")
    loss, drawn = theirs(image, hidden)
    loss.backward()

    def tree(source: official.Source) -> Any:
        return official.simmim(source, 4, patch)

    source = peers.weights(theirs)
    picture = official.nhwc(image.numpy())
    result = closeness.ask(ours, tree(source), picture, array(hidden))
    assert not source.unread
    predicted = array(peers.pieces(drawn, encoder.patch_size))
    peers.agree(result, loss, heard, predicted, tree(peers.gradients(theirs)))


@pytest.mark.parametrize(("size", "patch", "depth"), SIZES)
def test_beit2(size, patch, depth):
    encoder = encoder_of(size, patch, depth, **BEIT)
    count, codes, early = encoder.num_tokens * 2 // 5, 11, depth * 2 // 3
    theirs = vits.Beit2(encoder, early, 2, codes)
    peers.scatter(theirs, 0)
    peers.compares(theirs, encoder)
    image, hidden = peers.pictures(size), hidden_of(encoder.num_tokens, count)
    ids = torch.randint(codes, hidden.shape, generator=torch.manual_seed(4))
    both = theirs(image, hidden)
    losses = [functional.cross_entropy(x, ids[hidden]) for _, x in both]
    sum(losses).backward()

    tokenizer = vqkd.Objective(vit.Encoder(), num_codes=codes)
    ours = beit2.Objective(
        encoder,
        tokenizer=frozen.Model(tokenizer, *HALF),
        num_hidden=count,
        early_layer=early,
        branch_depth=2,
    )
    picture, places, tokens = official.nhwc(image.numpy()), array(hidden), array(ids)

    def call(bound: beit2.Objective) -> Any:
        scores = bound.predict_twice(picture, places)
        losses = [bound.loss(tokens, x, places) for x in scores]
        return losses[0] + losses[1], (losses, scores)

    source = peers.weights(theirs)
    params = official.beit2(source, 4)
    assert not source.unread
    _, found, after, grads = closeness.differentiate(call, ours, params, ("norm",))
    normed = after["intermediates"]["encoder"]["norm"]["__call__"]
    for part, loss in zip(found[0], losses, strict=True):
        closeness.same_loss(part, loss.item(), peers.RELATIVE)
    for x, (tokens, _) in zip(normed, both, strict=True):
        assert closeness.difference(x, array(tokens)) <= peers.RELATIVE
    for x, (_, scores) in zip(found[1], both, strict=True):
        x = x.reshape(scores.shape)
        assert closeness.difference(x, array(scores)) <= peers.RELATIVE
    theirs = official.beit2(peers.gradients(theirs), 4)
    closeness.same_gradients(grads, theirs, peers.RELATIVE)


@pytest.mark.parametrize(("size", "patch", "depth"), SIZES)
def test_vqkd(size, patch, depth):
    """With a teacher; one step of training moves the codes."""
    encoder = encoder_of(size, patch, depth, position="learned", qkv_bias="qv")
    judge = encoder_of(size, patch, 1, position="learned", width=24)
    ours = vqkd.Objective(
        encoder,
        teacher=frozen.Model(classify.Objective(judge), (0.4,), (0.3,)),
        num_codes=20,
        code_width=6,
        decoder_width=16,
        decoder_depth=2,
        decoder_heads=2,
    )
    decoder = encoder.clone(
        image_size=encoder.grid,
        patch_size=(1, 1),
        channels=6,
        width=16,
        depth=2,
        heads=2,
    )
    theirs, teacher = vits.VqKd(encoder, decoder, 20, 24), vits.Vit(judge)
    peers.scatter(theirs, 0)
    peers.scatter(teacher, 1)
    peers.compares(theirs, encoder)
    image = peers.pictures(size)
    pixels = image.sigmoid()
    with torch.no_grad():
        wanted = teacher.normed(teacher.embed((pixels - 0.4) / 0.3))[:, 1:]
    source, known = peers.weights(theirs), peers.weights(teacher)
    codes = source["quantize.embedding.weight"].copy()
    loss, vectors, predicted = theirs(image, wanted)
    loss.backward()
    ids = theirs.nearest(vectors)
    theirs.move(vectors, 0.99)

    judged = {"encoder": official.timm_vit(known, 4)}
    params = official.vqkd(source, 4, 2)
    assert not source.unread and not known.unread
    batch = {"image": image, "pixels": pixels}
    batch = {name: official.nhwc(x.numpy()) for name, x in batch.items()}
    found, _, after, grads = closeness.differentiate(
        lambda bound: bound(batch, train=True),
        ours,
        params,
        ("vectors", "reconstruct"),
        {
            "moving": {"codes": codes, "started": jnp.int32(1)},
            "frozen": {"teacher": {"params": judged}},
        },
        {"drop": jax.random.key(0)},
    )
    closeness.same_loss(found, loss.item(), peers.RELATIVE)
    outputs = after["intermediates"]
    moved = theirs.quantize["embedding"].weight
    for got, expected in (
        (outputs["vectors"][0], vectors),
        (outputs["reconstruct"][0], predicted),
        (after["moving"]["codes"], moved),
    ):
        assert closeness.difference(got, array(expected)) <= peers.RELATIVE
    assert 1 < len(ids.unique()) < len(moved)  # some move and some stay
    theirs = official.vqkd(peers.gradients(theirs), 4, 2)
    closeness.same_gradients(grads, theirs, peers.RELATIVE)


VIT_JAX = [
    ((32, 32), 8, 2, True, 0),
    ((16, 40), 8, 3, True, 16),
    ((24, 16), 4, 24, False, 0),
    ((40, 24), 8, 2, False, 12),
]


@pytest.mark.parametrize(("size", "patch", "depth", "cls", "representation"), VIT_JAX)
def test_vit_jax(size, patch, depth, cls, representation):
    encoder = encoder_of(
        size, patch, depth, cls=cls, position="learned", gelu_tanh=True
    )
    theirs = vits.VitJax(encoder, representation)
    peers.scatter(theirs, 0)
    pool = "token" if cls else "gap"
    ours = classify.Objective(encoder, 5, pool, representation)

    def tree(source: official.Source) -> Any:
        found = {"encoder": official.timm_vit(source, 4)}
        names = ["head", "pre_logits"][: 1 + (representation > 0)]
        return found | {name: official.linear(source, name) for name in names}

    assert not peers.classify_alike(theirs, ours, tree, "norm")


MPP = [
    ((32, 32), 8, 2, "colour"),
    ((16, 40), 8, 3, "colours"),
    ((24, 16), 4, 24, "pixels"),
]


@pytest.mark.parametrize(("size", "patch", "depth", "target"), MPP)
def test_mpp(size, patch, depth, target):
    encoder = encoder_of(size, patch, depth, position="learned")
    fields = {"colour": 1, "colours": 16, "pixels": 0}[target]
    theirs = vits.PatchPrediction(encoder, fields * 512 or patch * patch * 3)
    peers.scatter(theirs, 0)
    peers.compares(theirs, encoder)
    image = peers.pictures(size)
    pixels = image.sigmoid()
    count = encoder.num_tokens // 2
    random = torch.manual_seed(5)
    ids, other = (
        torch.rand((3, encoder.num_tokens), generator=random).argsort(1)[:, :count]
        for _ in range(2)
    )
    kind = torch.rand((3, count), generator=random)
    swapped = (kind >= 0.8) & (kind < 0.9)
    predicted = theirs(image, ids, kind < 0.8, swapped, other)
    rows = torch.arange(3)[:, None]
    if fields:
        side = patch if target == "colour" else patch // 4
        mean = functional.avg_pool2d(pixels, side)
        level = (8 * mean).floor().clamp(max=7).long()
        colour = (64 * level[:, 0] + 8 * level[:, 1] + level[:, 2]).float()[:, None]
        wanted = peers.pieces(colour, (patch // side,) * 2)[rows, ids].long()
        predicted = predicted.unflatten(2, (fields, 512))
        loss = functional.cross_entropy(predicted.flatten(0, 2), wanted.flatten())
    else:
        wanted = peers.pieces(pixels, encoder.patch_size)[rows, ids]
        loss = functional.mse_loss(predicted, wanted)
    loss.backward()
    ours = mpp.Objective(encoder, target=target)
    assert ours.num_corrupted == count

    def call(bound: mpp.Objective) -> Any:
        drawn = array(ids), array(kind), array(other)
        found = bound.predict(official.nhwc(image.numpy()), *drawn)
        return bound.loss(official.nhwc(pixels.numpy()), found, drawn[0]), found

    def tree(source: official.Source) -> Any:
        head = official.linear(source, "head")
        token = source["mask_token"]
        return {
            "encoder": official.timm_vit(source, 4),
            "mask_token": token,
            "head": head,
        }

    source = peers.weights(theirs)
    params = tree(source)
    assert not source.unread
    found, scores, _, grads = closeness.differentiate(call, ours, params)
    closeness.same_loss(found, loss.item(), peers.RELATIVE)
    assert closeness.difference(scores, array(predicted)) <= peers.RELATIVE
    closeness.same_gradients(grads, tree(peers.gradients(theirs)), peers.RELATIVE)
