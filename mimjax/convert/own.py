"""What our own export says of a model that its layout's configuration does not."""

from typing import Any

NAME = "mimjax"
"""The group of config.json."""

LAYOUT = "mimjax_layout"
"""What tells the layout of the weights beside it, for some have the names of others."""

HOW = "attention", "float8", "remat", "unroll"
"""Fields of an encoder that say how it is computed, on the machine it is trained on."""


def written(
    config: Any, layout: str, mean: list[float], std: list[float]
) -> dict[str, Any]:
    """What the weights do not tell: the fields that make the model, and that read it.

    But for the runs that it was built on, whose arrays are not in the file.
    """
    groups = {name: dict(config.values[name]) for name in ("encoder", "objective")}
    for name in config.builds_on:
        del groups["objective"][name]
    for name in HOW:
        groups["encoder"].pop(name, None)
    groups["data"] = {"mean": mean, "std": std}
    return {NAME: judged(config)[NAME] | groups, LAYOUT: layout}


def judged(config: Any) -> dict[str, Any]:
    """What features are, and a ratio that others round, for other configurations."""
    groups = {"evaluate": {n: config.values["evaluate"][n] for n in ("pool", "layers")}}
    ratio = config.values["encoder"].get("mlp_ratio")
    return {NAME: groups | ({"encoder": {"mlp_ratio": ratio}} if ratio else {})}


def tables(said: dict[str, Any]) -> dict[str, Any]:
    """With the image size by transformers' name, which tells the form of tables."""
    size = said.get(NAME, {}).get("encoder", {}).get("image_size")
    return said | ({"image_size": size} if size else {})


def add(values: dict[str, Any], said: dict[str, Any]) -> None:
    """Takes what a configuration says so into the config groups of a model."""
    for group, fields in said.get(NAME, {}).items():
        there = values.setdefault(group, {})
        # The encoder may have been cut out of another model.
        if group == "encoder" or fields.get("name") == there.get("name"):
            there |= fields
