"""How many devices a mesh has along each axis, and how arrays are cut over them.

A parameter is cut over tensor by a small table of path endings, then over fsdp along
its largest axis that divides; the axis of scanned layers is never cut.
"""

import dataclasses
import math
from collections.abc import Mapping

AXES = ("data", "fsdp", "tensor")

Shapes = Mapping[str, tuple[int, ...]]

# Path ending -> axis (from the end) cut over tensor: heads of attention, MLP width. Of
# SwiGLU the gates are the first half of `up` and what they gate the second, so that
# each has to be moved to where the other is: that costs time, not memory.
TENSOR_CUTS = {
    "qkv/kernel": -2,
    "qkv/bias": -2,
    "attn/q_bias": -2,
    "attn/v_bias": -2,
    "out/kernel": -3,
    "up/kernel": -1,
    "up/bias": -1,
    "down/kernel": -2,
}

# Arrays below this many values are cheaper to copy than to gather.
SMALLEST_CUT = 2**14

# Above this many bytes of a state and its gradients a device, they are cut over fsdp.
AUTO_FSDP_BYTES = 2 * 2**30


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; 0 lets the program choose.

    By default all devices share the batch. Where parameters, gradients, moments, the
    moving average and frozen models take more than 2 GiB, they also share these (fsdp):
    as many of them as leave a device the least. Of 24 devices that is eight where the
    widths cannot be divided by 24.
    """

    data: int = 0
    fsdp: int = 0
    tensor: int = 1


def problems(mesh: Mesh, devices: int) -> list[str]:
    """What cannot work with that many devices, one line each."""
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    found = [f"{axis}: {n} is negative" for axis, n in sizes.items() if n < 0]
    if mesh.tensor == 0:
        found.append("tensor: must be at least 1 (it is never chosen by itself)")
    fixed = math.prod(n for n in sizes.values() if n > 0)
    free = any(n == 0 for n in (mesh.data, mesh.fsdp))
    if not found and (devices % fixed if free else fixed != devices):
        shape = " x ".join(f"{axis} {n or '?'}" for axis, n in sizes.items())
        first = next((axis for axis, n in sizes.items() if n > 1), "data")
        found.append(
            f"{first}: {shape} does not fit {devices} device(s); the product must "
            f"{'divide' if free else 'be'} {devices}"
        )
    return found


def cuts(path: str, shape: tuple[int, ...], fsdp: int, tensor: int) -> list[str | None]:
    """The axis of the mesh that each axis of the array of that name is cut over."""
    found: list[str | None] = [None] * len(shape)
    for ending, axis in TENSOR_CUTS.items():
        fits = path.endswith(ending) and len(shape) >= -axis
        if fits and tensor > 1 and shape[axis] % tensor == 0:
            found[axis] = "tensor"
    first = 1 if "/layers/" in f"/{path}" else 0
    free = [
        i for i in range(first, len(shape)) if not found[i] and shape[i] % fsdp == 0
    ]
    if free and fsdp > 1 and math.prod(shape) >= SMALLEST_CUT:
        found[max(free, key=lambda i: shape[i])] = "fsdp"
    return found


def held(shapes: Shapes, fsdp: int, tensor: int) -> int:
    """How many numbers of arrays of these names and shapes a device holds."""
    sizes = {"fsdp": fsdp, "tensor": tensor, None: 1}

    def parts(path: str, shape: tuple[int, ...]) -> int:
        return math.prod(sizes[axis] for axis in cuts(path, shape, fsdp, tensor))

    return sum(math.prod(x) // parts(path, x) for path, x in shapes.items())


def least(shapes: Shapes, devices: int, tensor: int) -> int:
    """The fsdp with which each of so many devices holds least; of those alike the most.

    By 24 nothing divides that is 1,024 wide, but by 8.
    """
    ways = [n for n in range(devices, 0, -1) if devices % n == 0]
    return min(ways, key=lambda fsdp: held(shapes, fsdp, tensor))


def choose(mesh: Mesh, devices: int, state_bytes: int, shapes: Shapes) -> Mesh:
    """Fills in the axes left to the program, for arrays of these names and shapes."""
    rest = devices // mesh.tensor
    if mesh.data and mesh.fsdp:
        return mesh
    if mesh.data:
        return dataclasses.replace(mesh, fsdp=rest // mesh.data)
    if mesh.fsdp:
        return dataclasses.replace(mesh, data=rest // mesh.fsdp)
    large = state_bytes > AUTO_FSDP_BYTES
    fsdp = least(shapes, rest, mesh.tensor) if large else 1
    return dataclasses.replace(mesh, data=rest // fsdp, fsdp=fsdp)


def uncut(shapes: Shapes, tensor: int) -> list[str]:
    """Where `tensor` does not divide the heads or the MLPs of parameters, one line.

    Those would be computed whole by each of the devices.
    """
    named = {"qkv/kernel": "heads", "down/kernel": "numbers inside the MLP"}
    found = [
        f"{shape[TENSOR_CUTS[ending]]} {what} of {path.partition('/layers/')[0]}"
        for path, shape in shapes.items()
        for ending, what in named.items()
        if path.endswith(ending) and shape[TENSOR_CUTS[ending]] % tensor
    ]
    told = f"tensor: {tensor} does not divide the {', nor the '.join(found)}"
    return [told] if found else []


def wasted(mesh: Mesh, shapes: Shapes) -> list[str]:
    """Whether fsdp leaves a device more than twice its share of large arrays."""
    large = {n: x for n, x in shapes.items() if math.prod(x) >= SMALLEST_CUT}
    whole, left = (held(large, n, mesh.tensor) for n in (1, mesh.fsdp))
    if left * mesh.fsdp <= 2 * whole:
        return []
    told = f"fsdp: {mesh.fsdp} divides few widths, a device holds {left / whole:.1%}"
    better = least(large, mesh.data * mesh.fsdp, mesh.tensor)
    less = held(large, better, mesh.tensor)
    hint = f"; with {better} it would be {less / whole:.1%}" if less < left else ""
    return [f"{told} of what it would hold without{hint}"]
