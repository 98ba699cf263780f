"""An exported model beside ours on the same images."""

import dataclasses
import importlib
import importlib.util
import pathlib
import sys
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from mimjax import masking, models, patches
from mimjax.convert import layouts, schemes, weights
from mimjax.convert.files import NPZ, read
from mimjax.convert.plain import plainly
from mimjax.export import program
from mimjax.schema import ConfigError
from mimjax.trees import named_leaves

IMAGES = 2
RELATIVE = 1e-4
"""Float32 sums in another order differ by less; a wrong eps or activation by more."""
# Where timm computes a hybrid otherwise: it adds 1e-8 to the variance of a kernel and
# 1e-5 to that of a group, officially 1e-5 to the deviation and 1e-6.
HYBRID = 3e-2


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an output is from ours; `relative` is to the largest entry of ours."""

    output: str
    absolute: float
    relative: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether it is as near as rounding explains."""
        return self.relative <= self.allowed


def lines(found: list[Difference]) -> list[str]:
    """The differences, one line each."""
    return [
        f"{one.output}: largest difference {one.absolute:.2g}, relative "
        f"{one.relative:.2g}{'' if one.agrees else ': NOT the same'}"
        for one in found
    ]


@models.exactly()
def compare(
    model: models.Model, objective: Any, layout: str, folder: pathlib.Path
) -> list[Difference]:
    """Every output of both, on images of noise; what is hidden is drawn once.

    `objective` is what the folder holds of the model's.
    """
    config = dataclasses.replace(model.config, objective=objective)
    model = dataclasses.replace(model, config=config)
    encoder, rng = model.encoder, np.random.default_rng(0)
    size = (IMAGES, *encoder.image_size, encoder.channels)
    pixels = rng.integers(0, 256, size, dtype=np.uint8)
    image = np.array(patches.normalise(jnp.asarray(pixels), *model.constants))
    allowed = HYBRID if hasattr(encoder, "stages") else RELATIVE
    if layout == program.LAYOUT:
        return differences(program.ours(model, pixels), program.run(folder, pixels))
    family = layouts.family(layout)
    if family == "official":
        return reread(model, layout, folder)
    # Theirs compute in float32, whatever a run was trained in.
    model = dataclasses.replace(model, config=config.with_encoder(dtype="float32"))
    drawn = draw(model.config.objective)
    ours = {name: np.asarray(x) for name, x in answers(model, image, drawn).items()}
    theirs = PEERS[family](folder, image.transpose(0, 3, 1, 2), drawn)
    return differences(ours, theirs, allowed)


def differences(
    ours: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
    allowed: float = RELATIVE,
) -> list[Difference]:
    """Of every output that both have."""
    found = []
    for name, x in ours.items():
        if name in theirs:
            y = np.asarray(theirs[name]).reshape(x.shape)
            gap, most = float(np.abs(x - y).max()), float(np.abs(x).max())
            found.append(Difference(name, gap, gap / most if most else gap, allowed))
    return found


def reread(model: models.Model, layout: str, folder: pathlib.Path) -> list[Difference]:
    """The file read again: the official code cannot be installed."""
    files = {"vit_jax": folder / NPZ}
    arrays = read(files.get(layout, folder))
    again = weights.matching(folder, plainly(arrays), layout, model.config)
    ours = {"/".join(n): x for n, x in named_leaves(model.variables["params"]).items()}
    theirs = {"/".join(n): x for n, x in named_leaves(again.params).items()}
    shared = [name for name in ours if name in theirs]
    gap = max(float(np.abs(ours[n] - theirs[n]).max()) for n in shared)
    return [Difference(f"{len(shared)} parameters, read again", gap, gap, 0.0)]


def draw(objective: Any) -> dict[str, np.ndarray]:
    """What is hidden: a place for every patch, and which patches are."""
    encoder, rng = objective.encoder, np.random.default_rng(1)
    noise = rng.random((IMAGES, encoder.num_tokens)).astype(np.float32)
    grid = patches.grid_of(encoder.image_size, encoder.cell)
    count = grid[0] * grid[1]
    # BEiT predicts a number of patches that is fixed.
    num = getattr(objective, "num_hidden", count // 2)
    hidden = np.argsort(np.argsort(rng.random((IMAGES, count)), axis=1), axis=1) < num
    times = encoder.cell[0] // encoder.patch_size[0]
    fine = np.array(masking.spread(jnp.asarray(hidden), grid, times))
    return {"noise": noise, "hidden": hidden, "patches": fine}


def answers(
    model: models.Model, image: np.ndarray, drawn: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Our tokens, and what the head makes of them."""
    objective = model.config.objective
    kind = schemes.kind_of(objective)
    order = np.argsort(drawn["noise"], axis=1)

    @jax.jit
    def run(variables: Any, image: Any, order: Any, hidden: Any) -> dict[str, Any]:
        def call(method: str, *args: Any) -> Any:
            return objective.apply(variables, image, *args, method=method)

        found = {"tokens": tokens_before_pool(objective, variables, image)}
        if model.headless:
            return found
        if kind == "mae":
            kept = objective.num_kept
            parts = call("predict", order[:, :kept], order[:, kept:])
            found["predicted"] = masking.put_back(parts, order)
        if kind in ("simmim", "beit"):
            found["predicted"] = call("predict", hidden)
        if kind == "classify":
            found["logits"] = call("logits")
        return found

    return run(model.variables, image, order.astype(np.int32), drawn["hidden"])


def tokens_before_pool(objective: Any, variables: Any, image: Any) -> Any:
    """What the encoder gives; without its norm where that comes after the mean."""
    encoder, own = objective.encoder, {"params": variables["params"]["encoder"]}
    if schemes.pool_of(objective) == "mean":
        start = encoder.apply(own, image, method="embed")
        return encoder.apply(own, start, method="run")[0]
    return program.tokens_of(encoder, own, image)


def timm_outputs(
    folder: pathlib.Path, image: np.ndarray, drawn: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What timm says, from the folder alone."""
    timm, torch = required("timm"), required("torch")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        tokens = model.forward_features(torch.from_numpy(image))
        found = {"tokens": tokens.numpy()}
        if model.num_classes:
            found["logits"] = model.forward_head(tokens).numpy()
    return found


def transformers_outputs(
    folder: pathlib.Path, image: np.ndarray, drawn: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What transformers says, from the folder alone."""
    transformers, torch = required("transformers"), required("torch")
    # Its reports of what a model without a head does not take are no news.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kind = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    whole = getattr(transformers, kind).from_pretrained(folder).eval()
    base, x, found, seen = whole.base_model, torch.from_numpy(image), {}, {}
    noise, hidden = (torch.from_numpy(drawn[n]) for n in ("noise", "hidden"))
    with torch.no_grad():
        if "MAE" in kind:
            found["predicted"] = whole(x, noise=noise).logits
            # Nothing is hidden, and every patch stays in its place.
            whole.config.mask_ratio = 0.0
            seen["noise"] = torch.arange(noise.shape[1]).expand(noise.shape)
        elif kind == "BeitForMaskedImageModeling":
            found["predicted"] = whole(x, bool_masked_pos=hidden).logits[hidden]
        elif "MaskedImage" in kind:
            fine = torch.from_numpy(drawn["patches"])
            picture = whole(x, bool_masked_pos=fine).reconstruction
            picture = jnp.asarray(picture.permute(0, 2, 3, 1).numpy())
            cell = (whole.config.encoder_stride,) * 2
            found["predicted"] = torch.tensor(np.array(patches.patchify(picture, cell)))
        elif "Classification" in kind:
            found["logits"] = whole(x).logits
        tokens = base(x, **seen).last_hidden_state
        # The last norm of that model is its head's.
        beit = kind == "BeitForMaskedImageModeling"
        found["tokens"] = whole.layernorm(tokens) if beit else tokens
    return {name: value.numpy() for name, value in found.items()}


PEERS = {"timm": timm_outputs, "transformers": transformers_outputs}


def check(layout: str) -> None:
    """Raises ConfigError where what it is to be compared with is not installed."""
    family = layouts.family(layout)
    for name in (family, "torch") if family in PEERS else ():
        required(name)


def required(name: str) -> Any:
    """A package of PyTorch, which is not installed with this one."""
    if not importlib.util.find_spec(name):
        raise ConfigError([f"--verify: needs {name}: pip install {name}"])
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        if name == "timm":
            what = f"timm needs torchvision, which does not import: {error}"
            raise ConfigError([f"--verify: {what}"]) from None
        # Built for another PyTorch it breaks transformers, which can do without.
        sys.modules["torchvision"] = cast(Any, None)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError([f"--verify: {name} does not import: {error}"]) from None
