"""The state dict of a PyTorch checkpoint: a pickle beside raw arrays, its storages."""

import io
import math
import mmap
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from mimjax.convert.pickles import (
    DTYPES,
    Flaw,
    Inspector,
    StandIn,
    Storage,
    Tensor,
    kind_of,
    short,
)


def array(tensor: Tensor, content: memoryview) -> np.ndarray:
    """A read-only view of the bytes of a storage, checked to lie inside it."""
    storage, offset, size, stride, name = tensor
    item, dtype = DTYPES[storage.dtype].itemsize, DTYPES[name]
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise Flaw("a tensor's place is no row of natural numbers")
    part = content[storage.start * item : (storage.start + storage.length) * item]
    flat = np.ndarray(len(part) // dtype.itemsize, dtype, part)
    if 0 in size:
        return np.empty(size, dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    # Strides of zero could claim any size.
    if last >= flat.size or math.prod(size) > flat.size:
        raise Flaw("a tensor is larger than what it is a view of")
    steps = [dtype.itemsize * s for s in stride]
    view = np.lib.stride_tricks.as_strided
    return view(flat[offset:], tuple(size), steps, writeable=False)


def of_archive(member: Callable[[str], memoryview]) -> dict[str, np.ndarray]:
    """The weights of the zip format; `member` gives the bytes of a file in it."""
    inspector = Inspector(io.BytesIO(member("data.pkl")))
    tree = inspector.load()
    contents: dict[str, memoryview] = {}

    def content(storage: Storage) -> memoryview:
        if storage.key not in contents:
            contents[storage.key] = member(f"data/{storage.key}")
        return contents[storage.key]

    return arrays(inspector, tree, content)


# torch/serialization.py, MAGIC_NUMBER and PROTOCOL_VERSION.
LEGACY = (0x1950A86A20F9469CFC6C, 1001)
BIG_ENDIAN = "it was written on a big-endian machine: save it on another"


def of_stream(file: mmap.mmap) -> dict[str, np.ndarray]:
    """The weights of the format before PyTorch 1.6: pickles, then the storages."""
    if tuple(Inspector(file).load() for _ in LEGACY) != LEGACY:
        raise Flaw("it is a pickle, but not one of torch.save")
    if Inspector(file).load().get("little_endian") is not True:
        raise Flaw(BIG_ENDIAN)
    inspector = Inspector(file)
    tree, keys = inspector.load(), Inspector(file).load()
    whole, at = memoryview(file), file.tell()
    contents = {}
    for key in keys:
        if not isinstance(key, str) or key not in inspector.storages:
            raise Flaw("it holds a storage of no tensor")
        storage = inspector.storages[key]
        size = storage.length * DTYPES[storage.dtype].itemsize
        if struct.unpack_from("<q", whole, at) != (storage.length,):
            raise Flaw(f"storage {short(key)} has another size than the pickle says")
        contents[key] = whole[at + 8 : at + 8 + size]
        at += 8 + size
    return arrays(inspector, tree, lambda storage: contents[storage.key])


def arrays(
    inspector: Inspector, tree: Any, content: Callable[[Storage], memoryview]
) -> dict[str, np.ndarray]:
    """The arrays of the state dict in what a pickle holds."""
    found = {}
    for name, tensor in named(tree).items():
        whole = inspector.storages[tensor.storage.key]
        part, size = content(whole), whole.length * DTYPES[whole.dtype].itemsize
        if len(part) != size:
            raise Flaw(f"{short(name)} has {len(part)} bytes of {size}: it is cut off")
        found[name] = array(tensor, part)
    return found


# A teacher stands beside a student, and what is evaluated is the teacher (DINO).
WRAPPERS = ("model", "state_dict", "module", "teacher")


def named(tree: Any) -> dict[str, Tensor]:
    """The state dict: all there is, or what stands under the first of the WRAPPERS."""
    if isinstance(tree, dict):
        inner = [tree.get(name) for name in WRAPPERS]
        tree = next((x for x in inner if isinstance(x, dict | StandIn)), tree)
    if isinstance(tree, StandIn):
        tree = flattened(tree)
    if not isinstance(tree, dict):
        raise Flaw(f"it holds {kind_of(tree)}, and no state dict")
    for name, value in tree.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"{short(name)} in it is {kind_of(value)}, and no tensor"
            raise Flaw(f"{what}: save the state dict alone, or under {WRAPPERS[0]!r}")
    return tree


def flattened(module: StandIn) -> dict[str, Any]:
    """The parameters and buffers of a whole module by PyTorch's names."""
    found: dict[str, Any] = {}
    waiting, visits = [("", module)], 0
    while waiting:
        prefix, module = waiting.pop()
        state = module.state if isinstance(module.state, dict) else {}
        if "_modules" not in state:
            raise Flaw(f"it holds {kind_of(module)}, and no module with weights")
        passing = state.get("_non_persistent_buffers_set", [])
        own = {**state.get("_parameters", {}), **state.get("_buffers", {})}
        visits += 1 + len(own) + len(state["_modules"])
        if visits > 100_000 or len(prefix) > 1000:
            raise Flaw("its modules hold one another without end")
        for name, value in own.items():
            if len(prefix) + len(name) > 1000:
                raise Flaw("a name in it is without end")
            if value is not None and name not in passing:
                found[f"{prefix}{name}"] = value
        inner = [(f"{prefix}{n}.", m) for n, m in state["_modules"].items() if m]
        waiting += reversed(inner)
    return found
