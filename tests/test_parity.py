"""Hugging Face transformers with its random weights copied over: the same numbers.

Images are square where it takes no others: it makes a square of the tokens of a masked
ViT or Swin, and takes the height of BEiT's table for its width.
"""

from typing import Any, cast

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import official
import peers
import pytest
import torch
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SwinConfig,
    SwinForImageClassification,
    SwinForMaskedImageModeling,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from mimjax import frozen, masking, patches, posembed, train
from mimjax.backbones import swin, vit
from mimjax.objectives import beit, classify, dvae, mae, simmim
from mimjax.tokenizers import dvae as dvae_net


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
    peers.scatter(theirs, 0)
    place_tables(theirs, grid)
    image = peers.pictures(size)
    noise = torch.rand((3, num_tokens), generator=torch.manual_seed(2))
    heard = peers.listen(theirs, "vit.layernorm")
    answer = theirs(image, noise=noise, interpolate_pos_encoding=size[0] != size[1])
    answer.loss.backward()

    encoder = vit.Encoder(size, (patch, patch), width=32, depth=2, heads=4)
    peers.compares(theirs, encoder)
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
    source = peers.weights(theirs)
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
    peers.agree(
        result, answer.loss, heard, logits, hugging_face_mae(peers.gradients(theirs))
    )


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


def hugging_face_config(size: Any, patch: int, **more: Any) -> ViTConfig:
    return ViTConfig(
        image_size=size,
        patch_size=patch,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=128,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **{"num_hidden_layers": 2, **more},
    )


def learned_encoder(size: tuple[int, int], patch: int, **more: Any) -> vit.Encoder:
    fields = {"depth": 2, "position": "learned", **more}
    return vit.Encoder(size, (patch, patch), width=32, heads=4, **fields)


def learned_tree(source: official.Source) -> Any:
    table = source["vit.embeddings.position_embeddings"]
    return {**official.hugging_face_vit(source, 4), "pos_embed": table}


@pytest.mark.parametrize(
    ("size", "patch", "channels", "depth"),
    [((16, 40), 8, 1, 2), ((24, 24), 4, 3, 2), ((48, 32), 16, 3, 24)],
)
def test_classification(size, patch, channels, depth):
    more = {"num_channels": channels, "num_labels": 5, "num_hidden_layers": depth}
    theirs = ViTForImageClassification(hugging_face_config(size, patch, **more)).eval()
    peers.scatter(theirs, 1)
    encoder = learned_encoder(size, patch, channels=channels, depth=depth)

    def tree(source: official.Source) -> Any:
        head = official.linear(source, "classifier")
        return {"encoder": learned_tree(source), "head": head}

    ours = classify.Objective(encoder, num_classes=5)
    assert not peers.classify_alike(theirs, ours, tree, "vit.layernorm")


@pytest.mark.parametrize(("side", "patch"), [(32, 8), (24, 4), (48, 16)])
def test_masked_image_modelling(side, patch):
    """The port of SimMIM on a plain ViT with learned positions; cell = patch."""
    config = hugging_face_config(side, patch, encoder_stride=patch)
    theirs = ViTForMaskedImageModeling(config).eval()
    peers.scatter(theirs, 2)
    image = peers.pictures((side, side))
    places = (3, (side // patch) ** 2)
    masked = torch.rand(places, generator=torch.manual_seed(3)) < 0.6
    heard = peers.listen(theirs, "vit.layernorm")
    answer = theirs(image, bool_masked_pos=masked)
    answer.loss.backward()

    encoder = learned_encoder((side, side), patch)
    peers.compares(theirs, encoder)
    ours = simmim.Objective(encoder, mask_cell=patch)

    def tree(source: official.Source) -> Any:
        return {
            "encoder": learned_tree(source),
            "mask_token": source["vit.embeddings.mask_token"],
            "decoder": official.pixel_shuffle(source, "decoder.0", patch),
        }

    source = peers.weights(theirs)
    result = closeness.ask(
        ours, tree(source), official.nhwc(image.numpy()), jnp.asarray(masked.numpy())
    )
    assert not source.unread
    picture = official.nhwc(answer.reconstruction.detach().numpy())
    predicted = patches.patchify(picture, (patch, patch))
    peers.agree(result, answer.loss, heard, predicted, tree(peers.gradients(theirs)))


@pytest.mark.parametrize(
    ("side", "patch", "layer_scale", "depth"),
    [(32, 8, 0.1, 2), (24, 4, 1e-5, 2), (48, 16, 1.0, 24)],
)
def test_beit(side, patch, layer_scale, depth):
    """Nothing is hidden in the last image: its tokens are its features."""
    config = BeitConfig(
        image_size=side,
        patch_size=patch,
        hidden_size=32,
        num_hidden_layers=depth,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=50,
        layer_norm_eps=1e-6,
        layer_scale_init_value=layer_scale,
        use_mask_token=True,
        use_shared_relative_position_bias=True,
    )
    theirs = BeitForMaskedImageModeling(config).eval()
    peers.scatter(theirs, 6)
    image, grid = peers.pictures((side, side)), (side // patch,) * 2
    num_tokens = grid[0] * grid[1]
    ours = beit.Objective(
        vit.Encoder(
            (side, side),
            (patch, patch),
            width=32,
            depth=depth,
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
    peers.compares(theirs, ours.encoder)
    hidden = masking.block_wise(jax.random.key(0), 3, grid, num_tokens // 2, 1)
    hidden = hidden.at[2].set(False)
    tokens = np.random.default_rng(0).integers(0, 50, (3, num_tokens)).astype(np.int32)
    masked = torch.from_numpy(np.array(hidden))
    labels = torch.from_numpy(tokens).long()[masked]
    heard = peers.listen(theirs, "layernorm")
    answer = theirs(image, bool_masked_pos=masked, labels=labels)
    answer.loss.backward()

    source = peers.weights(theirs)
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
    grads = official.hugging_face_beit(peers.gradients(theirs), 4)
    peers.agree(result, answer.loss, heard, logits, grads)


@pytest.mark.parametrize(
    ("side", "patch", "layer_scale", "depth"),
    [(32, 8, 0.1, 2), (24, 4, 1e-5, 3), (48, 16, 1.0, 24)],
)
def test_beit_classification(side, patch, layer_scale, depth):
    """As it is fine-tuned: a table a layer, and the mean of the patches."""
    config = BeitConfig(
        image_size=side,
        patch_size=patch,
        hidden_size=32,
        num_hidden_layers=depth,
        num_attention_heads=4,
        intermediate_size=128,
        layer_norm_eps=1e-6,
        layer_scale_init_value=layer_scale,
        use_relative_position_bias=True,
        drop_path_rate=0.0,
        num_labels=5,
    )
    theirs = BeitForImageClassification(config).eval()
    peers.scatter(theirs, 7)

    def tree(source: official.Source) -> Any:
        model = source.below("beit.")
        stack = official.layers(model, "layers", official.HUGGING_FACE_BEIT, 4)
        encoder = {
            "patch": official.patch(model, "embeddings.patch_embeddings.projection"),
            "cls_token": model["embeddings.cls_token"],
            "blocks": {"layers": stack},
        }
        norm = official.norm(model, "pooler.layernorm")
        head = official.linear(source, "classifier")
        return {"encoder": encoder, "fc_norm": norm, "head": head}

    fields = {"width": 32, "depth": depth, "heads": 4, "qkv_bias": "qv"}
    fields |= {"position": "relative_layers", "layer_scale": layer_scale}
    encoder = vit.Encoder((side, side), (patch, patch), **fields)
    ours = classify.Objective(encoder, num_classes=5, pool="mean")
    assert not peers.classify_alike(theirs, ours, tree, "beit.pooler.layernorm")


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(
    ("size", "patch", "swiglu", "depth"),
    [((16, 40), 8, True, 2), ((24, 24), 4, False, 3), ((48, 32), 16, True, 12)],
)
def test_dinov2(size, patch, swiglu, depth, registers):
    """Tokens after the last norm, and gradients of what five numbers of each tell."""
    given: dict[str, Any] = {
        "image_size": size,
        "patch_size": patch,
        "hidden_size": 32,
        "num_hidden_layers": depth,
        "num_attention_heads": 4,
        "use_swiglu_ffn": swiglu,
    }
    if registers:
        more = {"num_register_tokens": registers}
        config = Dinov2WithRegistersConfig(**given, **more)
        theirs: Any = Dinov2WithRegistersModel(config).eval()
    else:
        theirs = Dinov2Model(Dinov2Config(**given)).eval()
    theirs.embeddings.mask_token.requires_grad = False  # nothing is hidden
    peers.scatter(theirs, 8)
    # For an image that is not square it would resize the table, which fits.
    table = theirs.embeddings.position_embeddings
    theirs.embeddings.interpolate_pos_encoding = lambda *_: table
    image, heard = peers.pictures(size), peers.listen(theirs, "layernorm")
    probe = torch.randn((32, 5), generator=torch.manual_seed(2))
    told = theirs(image).last_hidden_state @ probe
    loss = torch.square(told).mean()
    loss.backward()

    encoder = vit.Encoder(
        size,
        (patch, patch),
        width=32,
        depth=depth,
        heads=4,
        # Two thirds of four times the width, rounded up to a multiple of eight.
        mlp_ratio=88 / 32 if swiglu else 4.0,
        registers=registers,
        position="learned",
        layer_scale=1.0,
        swiglu=swiglu,
    )

    peers.compares(theirs, encoder)

    def loss_of(params: Any) -> Any:
        bound = encoder.bind({"params": params})
        tokens = bound(bound.embed(official.nhwc(image.numpy())))
        told = tokens @ jnp.asarray(probe.numpy())
        return jnp.square(told).mean(), (tokens, told)

    source = peers.weights(theirs)
    params = official.hugging_face_dinov2(source, 4)
    assert source.unread == {"embeddings.mask_token"}
    run = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    (value, outputs), grads = run(params)
    result = closeness.Answer(value, *outputs, grads)
    wanted = official.hugging_face_dinov2(peers.gradients(theirs), 4)
    peers.agree(result, loss, heard, told.detach().numpy(), wanted)


def test_dinov2_g_has_as_many_parameters():
    with torch.device("meta"):
        theirs = Dinov2Model(
            Dinov2Config(
                image_size=518,
                patch_size=14,
                hidden_size=1536,
                num_hidden_layers=40,
                num_attention_heads=24,
                use_swiglu_ffn=True,
                use_mask_token=False,
            )
        )
    fields = {**vit.SIZES["g"], "mlp_ratio": 2.6667, "swiglu": True}
    fields |= {"position": "learned", "layer_scale": 1.0}
    encoder = vit.Encoder((518, 518), (14, 14), **fields)
    assert encoder.spec(encoder.width, encoder.heads).mlp_width == 4096
    image = jnp.zeros((1, 518, 518, 3))
    shapes = jax.eval_shape(
        lambda: encoder.init(
            jax.random.key(0), image, method=lambda m, x: m(m.embed(x))
        )
    )
    assert train.count(shapes["params"]) == theirs.num_parameters()


SWINS = [
    # Image, patch, window, depths: shifts in both stages; in the first alone, with a
    # stage of one layer; a window that is all of the last of three stages.
    (32, 2, 4, (2, 2)),
    (40, 4, 5, (23, 1)),
    (48, 2, 6, (2, 3, 2)),
]


def hugging_face_swin(
    size: tuple[int, int], patch: int, window: int, depths: Any, **more: Any
) -> tuple[SwinConfig, swin.Encoder]:
    heads = tuple(2 * 2**stage for stage in range(len(depths)))
    config = SwinConfig(
        # For masked images it must be one number.
        image_size=size if size[0] != size[1] else size[0],
        patch_size=patch,
        embed_dim=16,
        depths=list(depths),
        num_heads=list(heads),
        window_size=window,
        drop_path_rate=0.0,
        **more,
    )
    fields = {"width": 16, "depths": depths, "heads": heads, "window": window}
    return config, swin.Encoder(size, (patch, patch), **fields)


@pytest.mark.parametrize(
    ("size", "patch", "window", "depths"),
    # In the last image the second stage is one window high, and does not shift.
    [((32, 32), 2, 4, (2, 2)), ((16, 32), 2, 2, (2, 2)), ((20, 40), 2, 5, (2, 2))],
)
def test_swin_classification(size, patch, window, depths):
    config, encoder = hugging_face_swin(size, patch, window, depths, num_labels=5)
    theirs = SwinForImageClassification(config).eval()
    peers.scatter(theirs, 4)

    def tree(source: official.Source) -> Any:
        head = official.linear(source, "classifier")
        return {
            "encoder": official.hugging_face_swin(source, encoder.heads),
            "head": head,
        }

    ours = classify.Objective(encoder, num_classes=5, pool="gap")
    unread = peers.classify_alike(theirs, ours, tree, "swin.layernorm")
    assert all(n.endswith("relative_position_index") for n in unread)


@pytest.mark.parametrize(("size", "patch", "window", "depths"), SWINS)
def test_masked_image_modelling_on_swin(size, patch, window, depths):
    stride = patch * 2 ** (len(depths) - 1)
    config, encoder = hugging_face_swin(
        (size, size), patch, window, depths, encoder_stride=stride
    )
    assert encoder.cell == (stride, stride)
    theirs = SwinForMaskedImageModeling(config).eval()
    peers.scatter(theirs, 5)
    image = peers.pictures((size, size))
    peers.compares(theirs, encoder)
    ours = simmim.Objective(encoder, mask_cell=stride)
    cells = (3, size // stride * (size // stride))
    hidden = torch.rand(cells, generator=torch.manual_seed(6)) < 0.6
    fine = masking.spread(jnp.asarray(hidden.numpy()), ours.grid, stride // patch)
    heard = peers.listen(theirs, "swin.layernorm")
    answer = theirs(image, bool_masked_pos=torch.from_numpy(np.array(fine)))
    answer.loss.backward()

    def tree(source: official.Source) -> Any:
        return {
            "encoder": official.hugging_face_swin(source, encoder.heads),
            "mask_token": source["swin.embeddings.mask_token"],
            "decoder": official.pixel_shuffle(source, "decoder.0", stride),
        }

    source = peers.weights(theirs)
    result = closeness.ask(
        ours, tree(source), official.nhwc(image.numpy()), jnp.asarray(hidden.numpy())
    )
    picture = official.nhwc(answer.reconstruction.detach().numpy())
    predicted = patches.patchify(picture, encoder.cell)
    peers.agree(result, answer.loss, heard, predicted, tree(peers.gradients(theirs)))
