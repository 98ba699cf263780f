"""Hugging Face transformers with its random weights copied over: the same numbers.

Losses, predictions and the gradients of every parameter to 1e-5 relative in float32:
the largest difference in a tensor against the largest entry of that tensor.
"""

from typing import Any, cast

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
import torch
from transformers import (
    BeitConfig,
    BeitForMaskedImageModeling,
    SwinConfig,
    SwinForImageClassification,
    SwinForMaskedImageModeling,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from mimjax import frozen, masking, patches, posembed
from mimjax.backbones import swin, vit
from mimjax.objectives import beit, classify, dvae, mae, simmim
from mimjax.tokenizers import dvae as dvae_net

RELATIVE = 1e-5


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


def agree(ours: closeness.Answer, loss: Any, predicted: Any, grads: Any) -> None:
    """Loss, prediction and gradients; both in our layout."""
    np.testing.assert_allclose(ours.loss, loss.item(), rtol=RELATIVE)
    assert closeness.difference(ours.predicted, predicted) <= RELATIVE
    closeness.same_gradients(ours.grads, grads, RELATIVE)


def hugging_face_mae(source: official.Source) -> Any:
    return {
        "encoder": official.hugging_face_vit(source, 4),
        "decoder_embed": official.linear(source, "decoder.decoder_embed"),
        "mask_token": source["decoder.mask_token"],
        "decoder": {
            "layers": official.layers(
                source, "decoder.decoder_layers", official.HUGGING_FACE, 3
            )
        },
        "decoder_norm": official.norm(source, "decoder.decoder_norm"),
        "decoder_pred": official.linear(source, "decoder.decoder_pred"),
    }


@pytest.mark.parametrize(
    ("size", "patch", "norm_pixels"),
    [
        ((32, 32), 8, True),
        ((24, 24), 4, False),
        ((16, 64), 8, True),
    ],
)
def test_mae(size, patch, norm_pixels):
    grid = patches.grid_of(size, (patch, patch))
    num_tokens = grid[0] * grid[1]
    theirs = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=round(num_tokens**0.5) * patch,
            patch_size=patch,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            decoder_hidden_size=24,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=3,
            decoder_intermediate_size=96,
            layer_norm_eps=1e-6,
            norm_pix_loss=norm_pixels,
        )
    ).eval()
    scatter(theirs, 0)
    place_tables(theirs, grid)
    image = pictures(size)
    noise = torch.rand((3, num_tokens), generator=torch.manual_seed(2))
    answer = theirs(image, noise=noise, interpolate_pos_encoding=size[0] != size[1])
    answer.loss.backward()

    encoder = vit.Encoder(size, (patch, patch), width=32, depth=2, heads=4)
    ours = mae.Objective(
        encoder,
        decoder_width=24,
        decoder_depth=2,
        decoder_heads=3,
        norm_pixels=norm_pixels,
    )
    order = jnp.argsort(noise.numpy(), axis=1)
    drop = order[:, ours.num_kept :]
    hidden = masking.hidden_from_ids(drop, num_tokens)
    np.testing.assert_array_equal(hidden, answer.mask.numpy() == 1)
    source = weights(theirs)
    result = closeness.ask(
        ours,
        hugging_face_mae(source),
        official.nhwc(image.numpy()),
        order[:, : ours.num_kept],
        drop,
    )
    assert source.unread == {
        "vit.embeddings.position_embeddings",
        "decoder.decoder_pos_embed",
    }
    logits = masking.take(jnp.asarray(answer.logits.detach().numpy()), order)
    agree(result, answer.loss, logits, hugging_face_mae(gradients(theirs)))


def place_tables(model: ViTMAEForPreTraining, grid: tuple[int, int]) -> None:
    """Our position tables for theirs, which exist for square grids alone.

    One of the two tables is all zeros in a fresh model; the other equals ours.
    """
    for module, name, width in (
        (model.vit.embeddings, "position_embeddings", 32),
        (model.decoder, "decoder_pos_embed", 24),
    ):
        table = np.zeros((1, 1 + grid[0] * grid[1], width), np.float32)
        table[0, 1:] = posembed.sincos_2d(grid, width)
        parameter = getattr(module, name)
        if grid[0] == grid[1] and parameter.any():
            np.testing.assert_allclose(parameter.numpy(), table, atol=1e-6)
        parameter.data = torch.from_numpy(table)
        # For an image that is not square it would resize the table, which fits.
        cast(Any, module).interpolate_pos_encoding = lambda *_, t=parameter: t


def hugging_face_config(size: Any, **more: Any) -> ViTConfig:
    return ViTConfig(
        image_size=size,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **more,
    )


def learned_encoder(size: tuple[int, int], channels: int = 3) -> vit.Encoder:
    return vit.Encoder(
        size, (8, 8), channels, width=32, depth=2, heads=4, position="learned"
    )


def learned_tree(source: official.Source) -> Any:
    table = source["vit.embeddings.position_embeddings"]
    return {**official.hugging_face_vit(source, 4), "pos_embed": table}


def test_classification():
    size, channels = (16, 40), 1
    config = hugging_face_config(size, num_channels=channels, num_labels=5)
    theirs = ViTForImageClassification(config).eval()
    scatter(theirs, 1)
    image, label = pictures(size, channels), torch.tensor([4, 0, 2])
    logits = theirs(image).logits
    loss = torch.nn.functional.cross_entropy(logits, label)
    loss.backward()

    ours = classify.Objective(learned_encoder(size, channels), num_classes=5)

    def tree(source: official.Source) -> Any:
        head = official.linear(source, "classifier")
        return {"encoder": learned_tree(source), "head": head}

    source = weights(theirs)
    result = closeness.ask(
        ours,
        tree(source),
        official.nhwc(image.numpy()),
        jnp.asarray(label.numpy(), jnp.int32),
    )
    assert not source.unread
    agree(result, loss, logits.detach().numpy(), tree(gradients(theirs)))


def test_masked_image_modelling():
    """The port of SimMIM on a plain ViT with learned positions; cell = patch."""
    config = hugging_face_config(32, encoder_stride=8)
    theirs = ViTForMaskedImageModeling(config).eval()
    scatter(theirs, 2)
    image = pictures((32, 32))
    masked = torch.rand((3, 16), generator=torch.manual_seed(3)) < 0.6
    answer = theirs(image, bool_masked_pos=masked)
    answer.loss.backward()

    ours = simmim.Objective(learned_encoder((32, 32)), mask_cell=8)

    def tree(source: official.Source) -> Any:
        return {
            "encoder": learned_tree(source),
            "mask_token": source["vit.embeddings.mask_token"],
            "decoder": official.pixel_shuffle(source, "decoder.0", 8),
        }

    source = weights(theirs)
    result = closeness.ask(
        ours, tree(source), official.nhwc(image.numpy()), jnp.asarray(masked.numpy())
    )
    assert not source.unread
    picture = official.nhwc(answer.reconstruction.detach().numpy())
    agree(
        result, answer.loss, patches.patchify(picture, (8, 8)), tree(gradients(theirs))
    )


@pytest.mark.parametrize(
    ("side", "patch", "layer_scale"), [(32, 8, 0.1), (24, 4, 1e-5), (48, 16, 1.0)]
)
def test_beit(side, patch, layer_scale):
    config = BeitConfig(
        image_size=side,
        patch_size=patch,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=50,
        layer_norm_eps=1e-6,
        layer_scale_init_value=layer_scale,
        use_mask_token=True,
        use_shared_relative_position_bias=True,
    )
    theirs = BeitForMaskedImageModeling(config).eval()
    scatter(theirs, 6)
    image, grid = pictures((side, side)), (side // patch,) * 2
    num_tokens = grid[0] * grid[1]
    ours = beit.Objective(
        vit.Encoder(
            (side, side),
            (patch, patch),
            width=32,
            depth=2,
            heads=4,
            position="relative",
            qkv_bias="qv",
            layer_scale=layer_scale,
            start="beit",
        ),
        tokenizer=frozen.Model(
            dvae.Objective(dvae_net.Encoder(num_codes=50)), (0,), (1,)
        ),
        num_hidden=num_tokens // 2,
        min_block=1,
    )
    hidden = masking.block_wise(jax.random.key(0), 3, grid, num_tokens // 2, 1)
    tokens = np.random.default_rng(0).integers(0, 50, (3, num_tokens)).astype(np.int32)
    masked = torch.from_numpy(np.array(hidden))
    labels = torch.from_numpy(tokens).long()[masked]
    answer = theirs(image, bool_masked_pos=masked, labels=labels)
    answer.loss.backward()

    source = weights(theirs)
    result = closeness.ask(
        ours,
        official.hugging_face_beit(source, 4),
        official.nhwc(image.numpy()),
        hidden,
        target=jnp.asarray(tokens),
    )
    assert not source.unread
    ids = masking.first_ids(hidden, ours.num_hidden)
    logits = masking.take(jnp.asarray(answer.logits.detach().numpy()), ids)
    grads = official.hugging_face_beit(gradients(theirs), 4)
    agree(result, answer.loss, logits, grads)


SWINS = [
    # Image, patch, window, depths: shifts in both stages; in the first alone, with a
    # stage of one layer; a window that is all of the last of three stages.
    (32, 2, 4, (2, 2)),
    (40, 4, 5, (4, 1)),
    (48, 2, 6, (2, 3, 2)),
]


def hugging_face_swin(size: int, patch: int, window: int, depths: Any, **more: Any):
    heads = tuple(2 * 2**stage for stage in range(len(depths)))
    config = SwinConfig(
        image_size=size,
        patch_size=patch,
        embed_dim=16,
        depths=list(depths),
        num_heads=list(heads),
        window_size=window,
        drop_path_rate=0.0,
        **more,
    )
    encoder = swin.Encoder(
        (size, size),
        (patch, patch),
        width=16,
        depths=depths,
        heads=heads,
        window=window,
    )
    return config, encoder


def test_swin_classification():
    size, patch, window, depths = SWINS[0]
    config, encoder = hugging_face_swin(size, patch, window, depths, num_labels=5)
    theirs = SwinForImageClassification(config).eval()
    scatter(theirs, 4)
    image, label = pictures((size, size)), torch.tensor([4, 0, 2])
    logits = theirs(image).logits
    loss = torch.nn.functional.cross_entropy(logits, label)
    loss.backward()
    ours = classify.Objective(encoder, num_classes=5, pool="gap")

    def tree(source: official.Source) -> Any:
        head = official.linear(source, "classifier")
        return {
            "encoder": official.hugging_face_swin(source, encoder.heads),
            "head": head,
        }

    source = weights(theirs)
    result = closeness.ask(
        ours,
        tree(source),
        official.nhwc(image.numpy()),
        jnp.asarray(label.numpy(), jnp.int32),
    )
    assert all(n.endswith("relative_position_index") for n in source.unread)
    agree(result, loss, logits.detach().numpy(), tree(gradients(theirs)))


@pytest.mark.parametrize(("size", "patch", "window", "depths"), SWINS)
def test_masked_image_modelling_on_swin(size, patch, window, depths):
    stride = patch * 2 ** (len(depths) - 1)
    config, encoder = hugging_face_swin(
        size, patch, window, depths, encoder_stride=stride
    )
    assert encoder.cell == (stride, stride)
    theirs = SwinForMaskedImageModeling(config).eval()
    scatter(theirs, 5)
    image = pictures((size, size))
    ours = simmim.Objective(encoder, mask_cell=stride)
    cells = (3, size // stride * (size // stride))
    hidden = torch.rand(cells, generator=torch.manual_seed(6)) < 0.6
    fine = masking.spread(jnp.asarray(hidden.numpy()), ours.grid, stride // patch)
    answer = theirs(image, bool_masked_pos=torch.from_numpy(np.array(fine)))
    answer.loss.backward()

    def tree(source: official.Source) -> Any:
        return {
            "encoder": official.hugging_face_swin(source, encoder.heads),
            "mask_token": source["swin.embeddings.mask_token"],
            "decoder": official.pixel_shuffle(source, "decoder.0", stride),
        }

    source = weights(theirs)
    result = closeness.ask(
        ours, tree(source), official.nhwc(image.numpy()), jnp.asarray(hidden.numpy())
    )
    picture = official.nhwc(answer.reconstruction.detach().numpy())
    predicted = patches.patchify(picture, encoder.cell)
    agree(result, answer.loss, predicted, tree(gradients(theirs)))
