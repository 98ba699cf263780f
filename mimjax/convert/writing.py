"""Safetensors files written an array at a time, so that no two need be held."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mimjax.convert.files import SAFETENSORS
from mimjax.metrics import replacing


@contextlib.contextmanager
def filling(folder: pathlib.Path) -> Iterator[None]:
    """A folder that is made, and left as it was where what fills it fails.

    A part of a model would pass for a whole one, and forbid another try.
    """
    there = set(folder.iterdir()) if folder.exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for path in set(folder.iterdir()) - (there or set()):
                path.unlink()
            if there is None:
                folder.rmdir()
        raise


CODES = {np.dtype(x): code for code, x in SAFETENSORS.items() if x != "bfloat16"}


def write(
    path: pathlib.Path, shapes: Mapping[str, Any], get: Callable[[str], np.ndarray]
) -> None:
    """Writes a file, whole or not at all.

    Args:
        path: of the file; PyTorch's libraries take it.
        shapes: by name, anything with the shape and the type of an array.
        get: the array of that name.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, like in shapes.items():
        dtype, start = np.dtype(like.dtype), end
        end += dtype.itemsize * int(np.prod(like.shape, dtype=np.int64))
        header[name] = {
            "dtype": CODES[dtype],
            "shape": list(like.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, like in shapes.items():
            array = np.asarray(get(name), np.dtype(like.dtype), order="C")
            assert array.shape == like.shape, name
            file.write(array.data)
