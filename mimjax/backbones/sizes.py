"""How large images, patches and stacks of layers can be, and what to say beyond."""

from typing import Any

from mimjax.backbones.blocks import REMAT

DTYPES, ATTENTION = ("float32", "bfloat16"), ("xla", "cudnn")

# More is a slip of the keyboard: it would not fit anywhere.
LONGEST_SIDE, MOST_CHANNELS, MOST_TOKENS = 2**14, 2**10, 2**14
MOST_WIDTH, MOST_DEPTH, MOST_HEADS, MOST_MLP = 2**16, 2**10, 2**10, 2**20
MOST_REGISTERS = 2**10


def grid_problems(
    image_size: tuple[int, int], patch_size: tuple[int, int]
) -> list[str]:
    """What cannot work in the sizes of image and patch, one line each."""
    found = []
    for name, sides in (("image_size", image_size), ("patch_size", patch_size)):
        if not all(1 <= side <= LONGEST_SIDE for side in sides):
            found.append(f"{name}: {sides} must be from 1 to {LONGEST_SIDE} each way")
    if found:
        return found
    for side, patch in dict.fromkeys(zip(image_size, patch_size, strict=True)):
        if side % patch:
            count = side // patch
            sides = " or ".join(str(patch * n) for n in (count, count + 1) if n)
            found.append(
                f"patch_size: {patch} does not divide image_size {side} "
                f"(try {divisors_near(side, patch)}, or an image_size of {sides})"
            )
    tokens = (image_size[0] // patch_size[0]) * (image_size[1] // patch_size[1])
    if not found and tokens > MOST_TOKENS:
        found.append(
            f"patch_size: {patch_size} cuts image_size {image_size} into {tokens} "
            f"tokens, more than {MOST_TOKENS}"
        )
    return found


def field_problems(fields: dict[str, Any]) -> list[str]:
    """What cannot work in the fields that encoders share, one line each."""
    found = []
    choices = {"remat": REMAT, "dtype": DTYPES, "attention": ATTENTION}
    for name, allowed in choices.items():
        if name in fields and fields[name] not in allowed:
            found.append(f"{name}: {fields[name]!r} is none of {', '.join(allowed)}")
    for name in ("dropout", "drop_path"):
        if not 0 <= fields.get(name, 0) < 1:
            found.append(f"{name}: {fields[name]} must be in [0, 1)")
    for name in ("mlp_ratio", "norm_eps"):
        if fields.get(name, 1) <= 0:
            found.append(f"{name}: {fields[name]} must be above 0")
    if fields.get("unroll", 0) < 0:
        found.append(f"unroll: {fields['unroll']} must not be negative")
    if not 1 <= fields["channels"] <= MOST_CHANNELS:
        found.append(
            f"channels: {fields['channels']} must be from 1 to {MOST_CHANNELS}"
        )
    return found


def register_problems(registers: int, position: str) -> list[str]:
    """What cannot work in tokens that have no place, one line each."""
    if not 0 <= registers <= MOST_REGISTERS:
        return [f"registers: {registers} must be from 0 to {MOST_REGISTERS}"]
    if registers and position.startswith("relative"):
        return [
            f"registers: {registers} must be 0 with position {position!r}, whose table "
            "has no rows for them"
        ]
    return []


def stack_problems(
    width: int, depth: int, heads: int, mlp_ratio: float, prefix: str = ""
) -> list[str]:
    """What cannot work in the sizes of a stack of layers, one line each.

    The names of its fields start with `prefix`; `mlp_ratio` is the encoder's.
    """
    found = []
    sizes = {
        "width": (width, MOST_WIDTH),
        "depth": (depth, MOST_DEPTH),
        "heads": (heads, MOST_HEADS),
    }
    for name, (size, most) in sizes.items():
        if not 1 <= size <= most:
            found.append(f"{prefix}{name}: {size} must be from 1 to {most}")
    if found:
        return found
    if width % heads:
        near = divisors_near(width, heads)
        found.append(
            f"{prefix}heads: {heads} does not divide {prefix}width {width} (try {near})"
        )
    # Compared as fractions: a huge ratio has no whole number.
    if mlp_ratio > 0 and not 1 <= width * mlp_ratio <= MOST_MLP:
        found.append(
            f"{prefix}width: {width} times mlp_ratio {mlp_ratio} must be from 1 to "
            f"{MOST_MLP}"
        )
    return found


def layer_problems(
    widths: tuple[int, ...], chosen: tuple[int, ...], needed: bool = False
) -> list[str]:
    """What cannot work in a choice of layers, from 1 or back from -1, one line each.

    `widths` are those of all layers; a mean of the chosen is taken. `needed` says that
    there has to be one.
    """
    if needed and not chosen:
        return ["layers: () must name one layer or more"]
    if chosen and not widths:
        return [
            f"layers: {chosen} must be (), this encoder has no layers to choose from"
        ]
    if any(not 1 <= abs(layer) <= len(widths) for layer in chosen):
        return [
            f"layers: {chosen} must be from 1 to {len(widths)}, the layers of this "
            "encoder, or from -1 back from the last"
        ]
    if len({widths[layer - (layer > 0)] for layer in chosen}) > 1:
        return [
            f"layers: {chosen} come from stages of different widths, must be of one "
            "stage"
        ]
    return []


def divisors_near(number: int, to: int) -> str:
    """The divisors of `number` next to `to`, as "14 or 16"."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    near = sorted(sorted(divisors, key=lambda n: abs(n - to))[:2])
    return " or ".join(map(str, near))
