"""What a training step has to compute, as formulas.

FLOPs of one image, matrix products alone, a multiply-add counted as two, the training
step as three times the forward pass (PaLM, arXiv 2204.02311, appendix B). Of T tokens
of width D in a layer with an MLP of width F:

    weights   8 T D^2 + 4 T D F     (6 T D F where gated)
    attention 4 T S D               (each of T tokens sees S)

By these conventions, with N patches of P values:

- The patch embedding counts for all N patches, 2 N P D, as the papers' code has it.
- BEiT's head counts for the M patches that may be hidden, 2 M D V; those of MAE, SimMIM
  and AIM, which predict every patch, for all.
- Causal attention counts in full. Half of it, as some count, is 2 T^2 D a layer less:
  0.9 % of AIM-600M at 224 pixels.
- Nothing counts for what remat repeats, and nothing for a frozen tokenizer.
"""

from collections.abc import Callable
from typing import Any

from mimjax.backbones import swin, vit
from mimjax.config import Config
from mimjax.objectives import aim, beit, classify, mae, simmim

# The backward pass makes two products for each one of the forward pass.
PASSES = 3

Parts = dict[str, int]


def layer(tokens: int, width: int, mlp: int, seen: int, gated: bool = False) -> int:
    """The forward pass of a layer in which each of the tokens sees `seen`; 0, none."""
    attention = (8 * tokens * width**2 + 4 * tokens * seen * width) if seen else 0
    return attention + (6 if gated else 4) * tokens * width * mlp


def dense(tokens: int, inside: int, out: int) -> int:
    """One matrix product for each token."""
    return 2 * tokens * inside * out


def of_vit(encoder: vit.Encoder, patches: int | None = None) -> Parts:
    """A vision transformer that sees all patches, or so many."""
    tokens = encoder.num_tokens if patches is None else patches
    tokens += encoder.cls + encoder.registers
    mlp = round(encoder.width * encoder.mlp_ratio)
    one = layer(tokens, encoder.width, mlp, tokens, encoder.swiglu)
    return {
        "patches": dense(encoder.num_tokens, encoder.patch_values, encoder.width),
        "encoder": encoder.depth * one,
    }


def of_swin(encoder: swin.Encoder) -> Parts:
    """A Swin transformer: attention in windows, and a merge behind each stage."""
    found = {
        "patches": dense(encoder.num_tokens, encoder.patch_values, encoder.width),
        "encoder": 0,
        "merges": 0,
    }
    rows, columns = encoder.grid
    width = encoder.width
    for stage, depth in enumerate(encoder.depths):
        tokens = rows * columns
        seen = min(encoder.window, rows, columns) ** 2
        mlp = round(width * encoder.mlp_ratio)
        found["encoder"] += depth * layer(tokens, width, mlp, seen)
        if stage + 1 < len(encoder.depths):
            # Four tokens become one, twice as wide.
            found["merges"] += dense(tokens // 4, 4 * width, 2 * width)
            rows, columns, width = rows // 2, columns // 2, 2 * width
    return found


def of_encoder(encoder: Any) -> Parts:
    """Either, on all patches."""
    return of_swin(encoder) if isinstance(encoder, swin.Encoder) else of_vit(encoder)


def of_mae(given: mae.Objective) -> Parts:
    """The encoder sees the patches kept, the decoder all of them."""
    encoder, width = given.encoder, given.decoder_width
    kept = encoder.num_tokens if given.mask_in_encoder else given.num_kept
    tokens, mlp = encoder.num_tokens + encoder.cls, round(width * encoder.mlp_ratio)
    one = layer(tokens, width, mlp, tokens, encoder.swiglu)
    seen = kept + encoder.cls + encoder.registers
    values = encoder.patch_values
    return {
        **of_vit(encoder, kept),
        "decoder": dense(seen, encoder.width, width) + given.decoder_depth * one,
        "head": dense(encoder.num_tokens, width, values),
    }


def of_simmim(given: simmim.Objective) -> Parts:
    """One linear layer behind every token."""
    encoder, (rows, columns) = given.encoder, given.grid
    values = encoder.cell[0] * encoder.cell[1] * encoder.channels
    head = dense(rows * columns, encoder.out_width, values)
    return {**of_encoder(encoder), "head": head}


def of_beit(given: beit.Objective) -> Parts:
    """Scores of the vocabulary for the patches that may be hidden."""
    codes = given.teacher.objective.num_codes
    head = dense(given.num_hidden, given.encoder.width, codes)
    return {**of_vit(given.encoder), "head": head}


def of_aim(given: aim.Objective) -> Parts:
    """A head of MLPs, or of layers that attend, on every token."""
    encoder, width = given.encoder, given.head_width
    tokens, trunk = encoder.num_tokens, of_vit(encoder)
    if given.head == "none":
        return {**trunk, "head": dense(tokens, encoder.width, encoder.patch_values)}
    seen = tokens if given.head == "transformer" else 0
    head = dense(tokens, encoder.width, width)
    head += given.head_depth * layer(tokens, width, 4 * width, seen)
    return {**trunk, "head": head + dense(tokens, width, encoder.patch_values)}


def of_classify(given: classify.Objective) -> Parts:
    """A classifier of one vector an image."""
    encoder, between = given.encoder, given.representation
    head = dense(1, between or encoder.out_width, given.num_classes)
    if between:
        head += dense(1, encoder.out_width, between)
    return {**of_encoder(encoder), "head": head}


METHODS: dict[type, Callable[[Any], Parts]] = {
    mae.Objective: of_mae,
    simmim.Objective: of_simmim,
    beit.Objective: of_beit,
    aim.Objective: of_aim,
    classify.Objective: of_classify,
}


def parts(given: Config) -> Parts | None:
    """FLOPs of the forward pass of an image, part by part; None without a formula."""
    known = METHODS.get(type(given.objective))
    # A hybrid is a vision transformer with convolutions before it; what is not trained
    # has no way back.
    plain = type(given.objective.encoder) in (vit.Encoder, swin.Encoder)
    if known is None or not plain or given.optim.frozen:
        return None
    if isinstance(given.objective, mae.Objective) and given.objective.tokenizer:
        return None
    return known(given.objective)


def training(given: Config) -> int | None:
    """FLOPs of a training step for each image; None where there is no formula."""
    found = parts(given)
    return PASSES * sum(found.values()) if found else None
