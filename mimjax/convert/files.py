"""Weights in files of other projects: PyTorch, safetensors and npz, never executed.

Arrays are views of the file mapped into memory, read when they are used; those of a
compressed npz alone are held.
"""

import itertools
import json
import math
import mmap
import pathlib
import struct
from typing import Any

import numpy as np

from mimjax.convert import own
from mimjax.convert.archives import of_zip, release
from mimjax.convert.pickles import DTYPES, Flaw, short
from mimjax.convert.states import of_stream


class BadFileError(Exception):
    """A file cannot be used; the message is one line naming it and the cause."""


# In a folder the first of these is taken: what transformers writes.
NAMES = ("model.safetensors", "model.safetensors.index.json")
NAMES += ("pytorch_model.bin", "pytorch_model.bin.index.json")
# What vit_jax's weights are exported to.
NPZ = "model.npz"
# timm's, in its configuration.
GROUPS = ("model_args", "pretrained_cfg")
# What wraps a model in PyTorch (several devices, compilation), and flax's collection.
PREFIXES = ("module.", "_orig_mod.", "module.", "model.", "params/")


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The weights of a file, or of a folder of transformers, by their flat names.

    A prefix that all names have and that says nothing of the model (PREFIXES) is taken
    off. Raises BadFileError if the file cannot be read, is damaged or hostile, or a
    weight is not finite.
    """
    try:
        path = file_in(path) if path.is_dir() else path
        sharded = path.name.endswith(".index.json")
        weights = of_shards(path) if sharded else of_file(path)
    except OSError as error:
        raise BadFileError(f"{path} cannot be read: {error.strerror}") from None
    if not weights:
        raise BadFileError(f"{path} holds no weights: give one with a state dict")
    check_finite(path, weights)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {n.removeprefix(prefix): x for n, x in weights.items()}
    return weights


def told(path: pathlib.Path) -> dict[str, Any]:
    """What the configuration beside the weights says; {} where there is none.

    By transformers' names; of timm's, what the weights do not tell. What images are
    normalised by is "mean" and "std", where it is there.
    """
    path = path.parent if path.name in NAMES else path
    if not path.is_dir() or not (path / "config.json").exists():
        return {}
    said = described(path / "config.json")
    images = path / "preprocessor_config.json"
    prepared = described(images) if images.exists() else {}
    args = said.get("model_args", {})
    names = {
        "num_attention_heads": args.get("num_heads"),
        "image_size": args.get("img_size"),
        "hidden_act": args.get("act_layer"),
        "mean": prepared.get("image_mean", said.get("pretrained_cfg", {}).get("mean")),
        "std": prepared.get("image_std", said.get("pretrained_cfg", {}).get("std")),
    }
    return said | {name: x for name, x in names.items() if x is not None}


def described(place: pathlib.Path) -> dict[str, Any]:
    """A file in JSON whose groups are groups."""
    try:
        if place.stat().st_size > HEADER_LIMIT:
            raise ValueError
        found = json.loads(place.read_bytes())
        groups = [found.get(name, {}) for name in (*GROUPS, own.NAME)]
        ours = groups[-1].values()
        if not all(isinstance(x, dict) for x in (*groups, *ours)):
            raise ValueError
        if any(isinstance(x, dict) for group in ours for x in group.values()):
            raise ValueError
    except (OSError, ValueError, AttributeError, RecursionError):
        raise BadFileError(f"{place} is no configuration in JSON") from None
    return found


def file_in(folder: pathlib.Path) -> pathlib.Path:
    """The first of NAMES in a folder."""
    for name in NAMES:
        if (folder / name).exists():
            return folder / name
    wanted = "model.safetensors nor pytorch_model.bin"
    raise BadFileError(f"{folder} holds neither {wanted}: name the file itself")


def check_finite(path: pathlib.Path, weights: dict[str, np.ndarray]) -> None:
    """Raises BadFileError naming the first array that holds NaN or an infinity."""
    for name, x in weights.items():
        floating = x.dtype.kind == "f" or x.dtype == DTYPES["bfloat16"]
        if not floating or not x.size:
            continue
        # Neither copies the array, and both hand NaN on.
        with np.errstate(invalid="ignore"):
            ends = x.min(), x.max()
        release(x)
        if not np.isfinite(ends).all():
            what = f"{path}: {short(name)} holds NaN or infinity"
            raise BadFileError(f"{what}: take an earlier checkpoint, or fetch it again")


def of_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of one file, by the names in it."""
    if not path.exists():
        raise BadFileError(f"{path} does not exist: name a file of weights")
    if not path.is_file():
        raise BadFileError(f"{path} is no regular file: name a file of weights")
    try:
        return content(path)
    except Flaw as flaw:
        raise BadFileError(f"{path}: {flaw}") from None
    except OSError:
        raise
    except Exception as error:
        # Whatever the parts of Python and numpy say of bytes that are none of theirs.
        said = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise BadFileError(f"{path} is damaged, fetch it again: {said}") from None


def of_shards(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of all files that an index names ("weight_map": name to file)."""
    if path.stat().st_size > HEADER_LIMIT:
        raise BadFileError(f"{path} is too long for an index of shards: fetch it again")
    try:
        places = json.loads(path.read_bytes())["weight_map"]
        names = sorted({str(shard) for shard in places.values()})
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        wanted = 'JSON with "weight_map", name to file'
        raise BadFileError(f"{path} is no index of shards: {wanted}") from None
    found: dict[str, np.ndarray] = {}
    for shard in names:
        if pathlib.PureWindowsPath(shard).name != shard or shard in ("", ".."):
            raise BadFileError(f"{path}: shard {short(shard)} lies outside its folder")
        if not (path.parent / shard).exists():
            raise BadFileError(f"{path}: shard {short(shard)} is missing, fetch it too")
        there = of_file(path.parent / shard)
        for name in (n for n, place in places.items() if place == shard):
            if name not in there:
                what = f"{path}: shard {short(shard)} lacks {short(name)}"
                raise BadFileError(f"{what}: fetch both again")
            found[name] = there[name]
    return found


def content(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file of any kind, told by how it begins."""
    with open(path, "rb") as file:
        if not file.read(1):
            raise Flaw("it is empty, fetch it again")
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = whole[:9]
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return of_zip(path, memoryview(whole))
    # Before the pickles: a length may begin as they do.
    if start[4:] == b"\0\0\0\0{":
        return of_safetensors(memoryview(whole))
    if start.startswith(b"\x80"):
        return of_stream(whole)
    raise Flaw("it is none of PyTorch's files, safetensors or npz")


# A model of a hundred thousand arrays fits; safetensors itself allows 100 MB.
HEADER_LIMIT = 16 * 2**20
SAFETENSORS = {"BOOL": "bool", "BF16": "bfloat16"} | {
    name[0].upper() + name.lstrip("abcdefghijklmnopqrstuvwxyz"): name
    for name in DTYPES
    if name not in ("bool", "bfloat16")
}


def of_safetensors(whole: memoryview) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file: length, header in JSON, bytes without gaps."""
    (length,) = struct.unpack_from("<Q", whole)
    if length > min(HEADER_LIMIT, len(whole) - 8):
        raise Flaw(f"it is cut off, or no safetensors: a header of {length} bytes")
    entries = json.loads(bytes(whole[8 : 8 + length]))
    entries.pop("__metadata__", None)
    data = whole[8 + length :]
    found, spans = {}, [(0, 0)]
    for name, entry in entries.items():
        if entry["dtype"] not in SAFETENSORS:
            raise Flaw(f"{short(name)} is of type {short(entry['dtype'])}: convert it")
        dtype = DTYPES[SAFETENSORS[entry["dtype"]]]
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
            raise Flaw(f"the place of {short(name)} is no row of natural numbers")
        if end > len(data):
            raise Flaw(f"it is cut off: {short(name)} ends at {end} of {len(data)}")
        if end - start != math.prod(shape) * dtype.itemsize:
            raise Flaw(f"the size of {short(name)} is not that of its shape and type")
        found[name] = np.ndarray(shape, dtype, data[start:end])
        spans.append((start, end))
    spans = [*sorted(spans), (len(data), len(data))]
    if any(one[1] != two[0] for one, two in itertools.pairwise(spans)):
        raise Flaw("its arrays overlap or leave gaps: fetch it again")
    return found
