"""The process that writes down what a peer starts from: weights, batch, masks, rates.

It answers which model of transformers that is, or why there is none.
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mimjax import batches, masking, models, optim, train
from mimjax.bench import child, given
from mimjax.config import Config
from mimjax.convert import layouts
from mimjax.export import folder
from mimjax.trees import named_leaves

# What each model takes beside the images.
TAKES = {
    "ViTMAEForPreTraining": ("noise",),
    "ViTForMaskedImageModeling": ("hidden",),
    "SwinForMaskedImageModeling": ("hidden",),
    "BeitForMaskedImageModeling": ("hidden", "tokens"),
    "ViTForImageClassification": ("label",),
    "SwinForImageClassification": ("label",),
    "BeitForImageClassification": ("label",),
}

# The layout of the weights of each, by objective and encoder.
LAYOUTS = {
    ("mae", "vit"): "transformers_vit_mae",
    ("simmim", "vit"): "transformers_vit",
    ("simmim", "swin"): "transformers_swin",
    ("beit", "vit"): "transformers_beit",
    ("classify", "vit"): "transformers_vit",
    ("classify", "swin"): "transformers_swin",
}


class NoPeerError(Exception):
    """Nothing in transformers is the same model; the message says why, in one line."""


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Writes the folder `spec["folder"]`; returns what is to be known of it."""
    config, mesh, plan = given.settle(spec)
    out = pathlib.Path(spec["folder"])
    with jax.set_mesh(mesh):
        state = given.start(config, mesh)
        batch = given.batch(config, mesh)
        params = jax.device_get(state.params)
        layout = layout_of(config)
        model = models.Model(config, {"params": params}, [], 0)
        leaves = {"/".join(name) for name in named_leaves(params)}
        missing = folder.groups(sorted(leaves - folder.held(model, layout)))
        if missing:
            raise NoPeerError(f"transformers has no place for {', '.join(missing)}")
        said = folder.pack(model, layout, out)["config.json"]
        kind = said["architectures"][0]
        arrays = {
            "image": np.asarray(batch["image"]),
            "label": np.asarray(batch["label"]),
        }
        prepared = batches.prepare(batch, plan.mean, plan.std)
        variables = {"params": state.params, **state.frozen}
        if "tokens" in TAKES[kind]:
            found = config.objective.apply(variables, prepared, method="tokens")
            arrays["tokens"] = np.asarray(found)
        for name in {"noise", "hidden"} & set(TAKES[kind]):
            arrays[name] = masks(name, config, variables, spec["checked"])
    np.savez(out / "batch.npz", allow_pickle=False, **arrays)
    o, size = config.optim, config.run.batch_size
    rates = [
        optim.schedule(
            o, peak=o.peak_lr(size), warmup=plan.warmup, steps=plan.steps, step=step
        )
        for step in range(spec["checked"])
    ]
    facts = {
        "kind": kind,
        "takes": TAKES[kind],
        "mean": np.asarray(plan.mean).tolist(),
        "std": np.asarray(plan.std).tolist(),
        "rates": [float(rate) for rate in rates],
        "optim": {"b1": o.b1, "b2": o.b2, "eps": o.eps, "decay": o.weight_decay},
        "clip": o.clip,
        "fixed": sorted(layouts.constants_of(layout, config.objective)),
        "decay_also": o.decay_also,
        "decayed": decayed(config, params),
        "dtype": config.encoder.dtype,
        "platform": jax.default_backend(),
        "remat": config.encoder.remat != "none",
    }
    (out / "facts.json").write_text(json.dumps(facts))
    return {"kind": kind, "alike": given.unlike(spec)}


def layout_of(config: Config) -> str:
    """The layout of its weights; NoPeerError where nobody trains such a model so."""
    objective = config.objective
    names = tuple(config.values[group]["name"] for group in ("objective", "encoder"))
    layout = LAYOUTS.get(names)
    if layout is None:
        raise NoPeerError(f"transformers has no {names[0]} on {names[1]}")
    if names == ("classify", "vit") and config.encoder.is_relative:
        layout = LAYOUTS["beit", "vit"]
    wrong = layouts.load(layout).misfit(objective)
    if wrong:
        raise NoPeerError(f"not as {layout} has it: config.{wrong}")
    odd = {
        "config.optim.name": config.optim.name != "adamw",
        "config.optim.frozen": config.optim.frozen,
        "config.optim.rates": config.optim.rates,
        "config.objective.mask_in_encoder": getattr(
            objective, "mask_in_encoder", False
        ),
    }
    for name, wrong in odd.items():
        if wrong:
            raise NoPeerError(f"{name}: the peers have no such thing")
    return layout


def masks(name: str, config: Config, variables: Any, steps: int) -> np.ndarray:
    """The masks of each step, as the peer takes them."""
    objective, size = config.objective, config.run.batch_size

    @jax.jit
    def drawn(step: Any) -> Any:
        rngs = train.streams(config.run.seed, step)
        found = objective.apply(variables, size, method="draw", rngs=rngs)
        if name == "noise":
            # Its model keeps the patches of least noise.
            order = jnp.concatenate(found, axis=1)
            return jnp.argsort(order, axis=1) / order.shape[1]
        if not hasattr(objective, "grid"):
            return found
        times = config.encoder.cell[0] // config.encoder.patch_size[0]
        return masking.spread(found, objective.grid, times)

    return np.stack([np.asarray(drawn(step)) for step in range(steps)])


def decayed(config: Config, params: Any) -> int:
    """How many numbers decay."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(x.size for path, x in leaves if optim.decays(config.optim, path))


def answer(spec: dict[str, Any]) -> dict[str, Any]:
    """What was prepared, or why nothing was."""
    try:
        return prepare(spec)
    except NoPeerError as error:
        return {"no_peer": str(error)}


if __name__ == "__main__":
    child.main(answer)
