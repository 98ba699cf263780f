"""Where arrays live: on one mesh of data x fsdp x tensor.

The batch is cut over data and fsdp together, a parameter as `meshes.py` has it.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mimjax.meshes import AXES, Mesh, Shapes, cuts


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


def on_gpu() -> bool:
    """Whether the mesh in force, if there is one, is of GPUs."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform == "gpu"


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
    return PartitionSpec(*cuts(path, shape, mesh.shape["fsdp"], mesh.shape["tensor"]))


def shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """The sharding of every array of a tree, by its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec(name_of(path), x.shape, mesh)), tree
    )


def shapes_of(tree: Any) -> Shapes:
    """The shape of every array of a tree, by its path."""
    return {name_of(path): x.shape for path, x in jax.tree.leaves_with_path(tree)}


def name_of(path: tuple[Any, ...]) -> str:
    """A tree path as "a/b/c"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
