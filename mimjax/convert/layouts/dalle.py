"""openai/DALL-E `encoder.py`, `decoder.py`: the discrete VAE, in a file or in two."""

from collections.abc import Iterator
from typing import Any

from mimjax.convert import shapes
from mimjax.convert.names import CONV, COPY, Arrays, Entry
from mimjax.tokenizers import dvae


def recognises(arrays: Arrays) -> bool:
    """Convolutions in groups."""
    return "encoder.blocks.group_1.block_1.res_path.conv_1.w" in arrays


def values(arrays: Arrays, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config groups of the model; it takes images of any size."""
    first = arrays["encoder.blocks.input.w"].shape
    encoder = {
        "name": "dvae",
        "width": first[0],
        "channels": first[1],
        "groups": count(arrays, "encoder.blocks.group_{}"),
        "blocks": count(arrays, "encoder.blocks.group_1.block_{}"),
        "num_codes": arrays["encoder.blocks.output.conv.w"].shape[0],
    }
    objective: dict[str, Any] = {"name": "dvae"}
    if "decoder.blocks.input.w" in arrays:
        objective["decoder_first"] = arrays["decoder.blocks.input.w"].shape[0]
    data = {"normalise": "pixels"}
    return {"encoder": encoder, "objective": objective, "data": data}


def count(arrays: Arrays, what: str) -> int:
    """How many there are, counted from 1."""
    return shapes.count(arrays, what) - 1


def misfit(objective: Any) -> str:
    """Why it cannot be written so, if it cannot."""
    return "" if isinstance(objective.encoder, dvae.Encoder) else "no discrete VAE"


def entries(objective: Any) -> Iterator[Entry]:
    """The table of names."""
    encoder = objective.encoder
    # Channels that come into a side's first group, and those that leave each group.
    out = [encoder.width * 2**group for group in range(encoder.groups)]
    for side, before, after in (
        ("encoder", encoder.width, out),
        ("decoder", objective.decoder_first, out[::-1]),
    ):
        yield from conv(f"{side}/input", f"{side}.blocks.input")
        for group, width in enumerate(after, 1):
            for number in range(1, encoder.blocks + 1):
                ours = f"{side}/body/group_{group}_block_{number}"
                theirs = f"{side}.blocks.group_{group}.block_{number}"
                for n in range(1, 5):
                    yield from conv(f"{ours}/conv_{n}", f"{theirs}.res_path.conv_{n}")
                if before != width:
                    yield from conv(f"{ours}/skip", f"{theirs}.id_path")
                before = width
        yield from conv(f"{side}/output", f"{side}.blocks.output.conv")


def conv(ours: str, theirs: str) -> Iterator[Entry]:
    """A convolution with its bias."""
    yield Entry(f"{ours}/kernel", (f"{theirs}.w",), CONV)
    yield Entry(f"{ours}/bias", (f"{theirs}.b",), COPY)
