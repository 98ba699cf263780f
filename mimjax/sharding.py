"""Where arrays live: one mesh of data x fsdp x tensor, and rules by parameter path.

The batch is cut over data and fsdp together. A parameter is cut over tensor by the
small table of path endings, then over fsdp along its largest axis that divides; the
axis of scanned layers is never cut.
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# Path ending -> axis (from the end) cut over tensor: heads of attention, MLP width.
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

# Above this many bytes of parameters, gradients and moments a device, they are cut
# over fsdp.
AUTO_FSDP_BYTES = 2 * 2**30


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; 0 lets the program choose.

    By default all devices share the batch; they also share the parameters (fsdp) where
    these, their gradients and moments take more than 2 GiB; of 24 devices eight do
    where their widths cannot be divided by 24.
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


def choose(
    mesh: Mesh,
    devices: int,
    state_bytes: int,
    shapes: Collection[tuple[int, ...]] = (),
) -> Mesh:
    """Fills in the axes left to the program, for arrays of these shapes."""
    rest = devices // mesh.tensor
    if mesh.data and mesh.fsdp:
        return mesh
    if mesh.data:
        return dataclasses.replace(mesh, fsdp=rest // mesh.data)
    if mesh.fsdp:
        return dataclasses.replace(mesh, data=rest // mesh.fsdp)
    if state_bytes > AUTO_FSDP_BYTES:
        # By 24 nothing divides that is 1,024 wide, but by 8.
        def held(fsdp: int) -> float:
            cuts = (any(n % fsdp == 0 for n in shape[1:]) for shape in shapes)
            pairs = zip(shapes, cuts, strict=True)
            return sum(math.prod(s) / (fsdp if cut else 1) for s, cut in pairs)

        fsdp = min(rest, rest & -rest, key=held)
        return dataclasses.replace(mesh, data=rest // fsdp, fsdp=fsdp)
    return dataclasses.replace(mesh, data=rest, fsdp=1)


def make(mesh: Mesh, devices: list[Any] | None = None) -> jax.sharding.Mesh:
    """The mesh of JAX; all sizes must be set."""
    sizes = tuple(getattr(mesh, axis) for axis in AXES)
    kinds = (AxisType.Auto,) * len(AXES)
    # An axis may be part of one of a TPU's torus.
    placed = mesh_utils.create_device_mesh(
        sizes, devices, allow_split_physical_axes=True
    )
    return jax.sharding.Mesh(placed, AXES, axis_types=kinds)


def batch(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis cut over all devices that see different samples."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def shares(mesh: jax.sharding.Mesh) -> int:
    """How many devices see different samples."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def microbatches(mesh: jax.sharding.Mesh) -> NamedSharding:
    """As `batch`, for the second axis."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def every(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis cut over all devices, whatever they share of a model."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def alone() -> jax.sharding.Mesh:
    """A mesh of one device of this process."""
    return make(Mesh(1, 1, 1), jax.local_devices()[:1])


def spread(
    rows: np.ndarray, mesh: jax.sharding.Mesh, block: int = 1, fill: int = 0
) -> jax.Array:
    """Rows [n, ...] that every process has whole, cut over all devices in order.

    They are filled up at the end so that each device has the same number of whole
    blocks. Where nothing has to be filled up the host copies nothing.
    """
    size = block * mesh.size
    shape = (-(-len(rows) // size) * size, *rows.shape[1:])

    def part(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        found = rows[start:stop]
        missing = stop - start - len(found)
        if not missing:
            return found
        filling = np.full((missing, *rows.shape[1:]), fill, rows.dtype)
        return np.concatenate([found, filling])

    return _placed(shape, every(mesh), part)


def copied(values: Any, mesh: jax.sharding.Mesh) -> jax.Array:
    """A number or array that every process has, on every device."""
    values = np.asarray(values)
    return _placed(values.shape, replicated(mesh), lambda index: values[index])


def dealt(rows: np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
    """Rows that every process has whole, cut as `batch` says."""
    return _placed(rows.shape, batch(mesh), lambda index: rows[index])


def _placed(shape: tuple[int, ...], how: NamedSharding, part: Any) -> jax.Array:
    """An array of which `part` gives what is at an index; a device after another."""
    places = how.addressable_devices_indices_map(shape).items()
    parts = [jax.device_put(part(index), device) for device, index in places]
    return jax.make_array_from_single_device_arrays(shape, how, parts)


def by_sample(x: jax.Array) -> jax.Array:
    """Says that the first axis is cut over all devices that see different samples.

    Models call this on activations. Without it the compiler is free to spread the cuts
    of fsdp parameters to the activations and to gather whole batches instead of
    weights. Outside `jax.set_mesh` nothing happens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]):
        return x
    free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(("data", "fsdp"), *free))


def for_platform(
    *given: jax.Array, cpu: Callable[..., Any], default: Callable[..., Any]
) -> Any:
    """What `cpu` makes of arrays where that runs on CPU, else what `default` does.

    Under `jax.set_mesh` that is known. Elsewhere both are traced, which would make the
    trace of a training step a sixth longer, and the choice waits until it is lowered.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.lax.platform_dependent(*given, cpu=cpu, default=default)
    return (cpu if device.platform == "cpu" else default)(*given)


def tensors_are_whole() -> bool:
    """Whether nothing is cut over the axis "tensor", so that axes may be merged."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.shape["tensor"] == 1


def local_rows(mesh: jax.sharding.Mesh, batch_size: int) -> np.ndarray:
    """The rows of a batch that the devices of this process hold, in order."""
    indices = batch(mesh).addressable_devices_indices_map((batch_size,))
    rows = {(i[0].start or 0, i[0].stop or batch_size) for i in indices.values() if i}
    return np.concatenate([np.arange(*r) for r in sorted(rows)])


def spec(path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> PartitionSpec:
    """How the array of that name is cut."""
    cuts: list[str | None] = [None] * len(shape)
    first = 1 if "/layers/" in f"/{path}" and shape else 0
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    for ending, axis in TENSOR_CUTS.items():
        if path.endswith(ending) and len(shape) >= -axis and not shape[axis] % tensor:
            cuts[axis] = "tensor" if tensor > 1 else None
    if fsdp > 1 and np.prod(shape) >= SMALLEST_CUT:
        free = [
            i
            for i in range(first, len(shape))
            if cuts[i] is None and shape[i] % fsdp == 0
        ]
        if free:
            cuts[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*cuts)


def shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """The sharding of every array of a tree, by its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec(name_of(path), x.shape, mesh)), tree
    )


def name_of(path: tuple[Any, ...]) -> str:
    """A tree path as "a/b/c"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
