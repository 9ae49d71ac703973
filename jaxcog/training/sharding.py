"""Where arrays live: the one place in which mesh axes are named.

Axes: "data" and "fsdp" split the batch; "fsdp" also splits parameters and whatever mirrors them;
"model" splits tensors inside a layer (a task's partition rules say which); "space" splits image
height (a task's `batch_partition` says where). All axes are Auto: XLA places the collectives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.config import Mesh as MeshConfig
from jaxcog.errors import ConfigError
from jaxcog.trees import by_path, path_name

AXES = ("data", "fsdp", "model", "space")
BATCH_AXES = ("data", "fsdp")
FSDP_MIN_ELEMENTS = 2**14  # below this a gather costs more than the memory that splitting saves

Tree = Any
AnyMesh = jax.sharding.Mesh | AbstractMesh
Rules = Sequence[tuple[str, P]]


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The mesh of a run.

    Args:
      config: devices per axis, -1 (on at most one) for what is left.
      devices: all devices of all processes by default; a topology's devices for ahead-of-time
        compilation.

    Raises:
      ConfigError: the sizes do not use up the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = _axis_sizes(config, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    types = (AxisType.Auto,) * len(AXES)
    # Axes may be split: 16 of a v5p:8x8x8 are no product of whole dimensions of its torus.
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return jax.sharding.Mesh(grid, AXES, axis_types=types)
    if sizes[0] % slices:
        raise ConfigError(
            f"mesh {_sizes_text(sizes)}: {slices} TPU slices are joined along the data axis; make "
            f"mesh.data a multiple of {slices}"
        )
    # Only gradients may cross the slow network between slices, hence the data axis.
    within = (sizes[0] // slices, *sizes[1:])
    grid = mesh_utils.create_hybrid_device_mesh(
        within, (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )
    return jax.sharding.Mesh(grid, AXES, axis_types=types)


def abstract_mesh(config: MeshConfig, num_devices: int) -> AbstractMesh:
    """The same mesh without devices, for lowering and for tests at the paper's full size."""
    sizes = _axis_sizes(config, num_devices)
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def batch_rows(mesh: AnyMesh) -> NamedSharding:
    """Rows (the first axis) over data and fsdp, as those of a batch."""
    return NamedSharding(mesh, P(BATCH_AXES))


def batch_struct(
    element: Mapping[str, Any], batch_size: int, shares: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Shapes of a global batch.

    Args:
      element: name -> ShapeDtypeStruct of one example; one level deeper for named streams.
      batch_size: global.
      shares: stream name -> its multiple of `batch_size`; 1 where it is not named.

    Returns:
      name -> ShapeDtypeStruct with the batch as first axis, nested as `element`.
    """

    def batched(entry: Any, size: int) -> Any:
        if isinstance(entry, Mapping):
            return {name: batched(value, size) for name, value in entry.items()}
        return jax.ShapeDtypeStruct((size, *entry.shape), entry.dtype)

    shares = shares or {}
    return {
        name: batched(entry, batch_size * shares.get(name, 1)) for name, entry in element.items()
    }


def batch_shardings(
    struct: Mapping[str, Any], mesh: AnyMesh, batch_partition: Mapping[str, P] | None = None
) -> dict[str, Any]:
    """Where a batch goes: the first axis over data and fsdp, unless `batch_partition` says more.

    Args:
      struct: as `batch_struct` returns it.
      mesh: see `make_mesh`.
      batch_partition: "image" or "stream/image" -> PartitionSpec of that entry.

    Raises:
      ConfigError: a dimension does not divide over its mesh axes.
    """
    partition = batch_partition or {}

    def one(path: Any, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = path_name(path)
        spec = partition.get(name, partition.get(name.rsplit("/", 1)[-1], P(BATCH_AXES)))
        shards = [_shards(mesh, entry) for entry in spec]
        if shards and leaf.shape[0] % shards[0]:
            axes = _axes_text(mesh, spec[0])
            raise ConfigError(
                f"a batch of {leaf.shape[0]} ({name}) does not divide over the mesh axes {axes} = "
                f"{shards[0]} shards: make train.batch_size (or train.eval_batch_size) a multiple "
                f"of {shards[0]}, or make mesh.data smaller and use fewer devices"
            )
        _check_divides(f"batch entry {name}", leaf.shape, spec, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, dict(struct))


def state_shardings(state: Tree, mesh: AnyMesh, partition: Rules = ()) -> Tree:
    """Where a state goes.

    A rule (regular expression, PartitionSpec) applies to parameters by their path, such as
    "params/head/kernel" (re.search, first match wins), and with it to every array of the same
    shape that mirrors the parameter: optimizer moments, EMA copies. Arrays that mirror none, such
    as a queue, are matched by their own path. Without a rule, the largest dimension that divides is
    split over fsdp; arrays under 2**14 elements, and kernels of depthwise convolutions, are
    replicated.

    Args:
      state: pytree of arrays or ShapeDtypeStructs, with the parameters under "params".

    Raises:
      ConfigError: a rule matches nothing, or does not divide the shape of what it matches.
    """
    leaves = by_path(state)
    parameters = _Parameters({name: x.shape for name, x in leaves.items() if _is_parameter(name)})
    unused = {pattern for pattern, _ in partition}
    specs = {}
    for name, leaf in leaves.items():
        owner = parameters.owner(name)
        spec = None
        if owner is None or parameters.shapes[owner] == leaf.shape:
            matches = [rule for rule in partition if re.search(rule[0], owner or name)]
            unused -= {pattern for pattern, _ in matches}
            spec = matches[0][1] if matches else None
        if spec is None:
            spec = _fsdp_spec(leaf.shape, mesh.shape["fsdp"])
        else:
            _check_divides(f"state entry {name} (partition rule)", leaf.shape, spec, mesh)
        specs[name] = spec
    if unused:
        known = ", ".join(list(parameters.shapes)[:8])
        raise ConfigError(
            f"partition rules {sorted(unused)} match no parameter; paths look like {known}"
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: NamedSharding(mesh, specs[path_name(path)]), state
    )


def local_rows(sharding: jax.sharding.Sharding, shape: Sequence[int]) -> np.ndarray:
    """int64, sorted: the rows (first axis) of a global array that this process must provide."""
    ranges = {
        index[0].indices(shape[0])[:2]
        for index in sharding.addressable_devices_indices_map(tuple(shape)).values()
        if index is not None
    }
    return np.unique(np.concatenate([np.arange(*bounds, dtype=np.int64) for bounds in ranges]))


def place(local: Tree, shardings: Tree, struct: Tree) -> Tree:
    """This process's rows of a batch as global arrays.

    Args:
      local: pytree of NumPy arrays; each holds the rows `local_rows(sharding, shape)`, in that
        order and whole in the other axes. Processes that share rows all bring them.
      shardings: the same tree of shardings.
      struct: the same tree of global shapes (anything with `.shape`).
    """
    if jax.process_count() == 1:
        return jax.device_put(local, shardings)
    return jax.tree.map(lambda x, s, g: _place_one(x, s, tuple(g.shape)), local, shardings, struct)


def _place_one(
    local: np.ndarray, sharding: jax.sharding.Sharding, shape: tuple[int, ...]
) -> jax.Array:
    rows = local_rows(sharding, shape)
    if local.shape != (len(rows), *shape[1:]):
        raise ValueError(
            f"place: this process holds {len(rows)} of {shape[0]} rows of {shape[1:]}, got an "
            f"array {local.shape}"
        )

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        if index is None:
            return local
        start, stop, _ = index[0].indices(shape[0])
        first = int(np.searchsorted(rows, start))
        return local[(slice(first, first + stop - start), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, part)


def held(array: jax.Array) -> np.ndarray:
    """This process's rows of a global array split over its first axis; the inverse of `place`."""
    if array.is_fully_addressable:
        return np.asarray(array)
    parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[first]) for first in sorted(parts)])


class _Parameters:
    """Finds the parameter that an array elsewhere in the state mirrors."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self.shapes = dict(shapes)
        self.by_last: dict[str, list[tuple[str, list[str]]]] = {}
        for name in shapes:
            parts = name.split("/")[1:]
            self.by_last.setdefault(parts[-1] if parts else "", []).append((name, parts))

    def owner(self, name: str) -> str | None:
        """The parameter whose path is the longest to end `name`.

        Parts in between are allowed, because an optimizer of one of several networks has a path
        such as "opt/generator/0/mu/conv/kernel" for "params/generator/conv/kernel".
        """
        if _is_parameter(name):
            return name
        parts = name.split("/")
        found = [
            (_common_ending(own, parts), len(own), parameter)
            for parameter, own in self.by_last.get(parts[-1], ())
            if _is_subsequence(own, parts)
        ]
        return max(found)[2] if found else None


def _is_parameter(name: str) -> bool:
    return name.split("/", 1)[0] == "params"


def _is_subsequence(short: Sequence[str], long: Sequence[str]) -> bool:
    rest = iter(long)
    return all(part in rest for part in short)


def _common_ending(a: Sequence[str], b: Sequence[str]) -> int:
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count


def _fsdp_spec(shape: Sequence[int], size: int) -> P:
    if size == 1 or math.prod(shape) < FSDP_MIN_ELEMENTS:
        return P()
    if len(shape) == 4 and shape[2] == 1:
        # A depthwise kernel whose channels are split makes the partitioner split the map's channels
        # too: every chip gathers the whole batch (a block of EfficientNet-B7 on 256 chips: 21 times
        # the cycles). It is never large.
        return P()
    divisible = [axis for axis, n in enumerate(shape) if n % size == 0]
    if not divisible:
        return P()
    largest = max(divisible, key=lambda axis: shape[axis])
    return P(*("fsdp" if axis == largest else None for axis in range(largest + 1)))


def _check_divides(what: str, shape: Sequence[int], spec: P, mesh: AnyMesh) -> None:
    if len(spec) > len(shape):
        raise ConfigError(f"{what}: {spec} has more entries than its shape {tuple(shape)}")
    for axis, entry in enumerate(spec):
        shards = _shards(mesh, entry)
        if shape[axis] % shards:
            raise ConfigError(
                f"{what}: axis {axis} of shape {tuple(shape)} does not divide over the mesh axes "
                f"{_axes_text(mesh, entry)}; choose sizes of which {shape[axis]} is a multiple"
            )


def _names(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _shards(mesh: AnyMesh, entry: Any) -> int:
    unknown = [name for name in _names(entry) if name not in mesh.shape]
    if unknown:
        raise ConfigError(f"mesh axes {unknown} do not exist; there are {', '.join(AXES)}")
    return math.prod(mesh.shape[name] for name in _names(entry))


def _axes_text(mesh: AnyMesh, entry: Any) -> str:
    return " * ".join(f"{name}={mesh.shape[name]}" for name in _names(entry))


def _sizes_text(sizes: Sequence[int]) -> str:
    return ", ".join(f"{name}={n}" for name, n in zip(AXES, sizes, strict=True))


def _axis_sizes(config: MeshConfig, count: int) -> tuple[int, ...]:
    sizes = [getattr(config, name) for name in AXES]
    known = math.prod(n for n in sizes if n != -1)
    if -1 in sizes and count % known == 0 and count >= known:
        return tuple(count // known if n == -1 else n for n in sizes)
    if known == count and -1 not in sizes:
        return tuple(sizes)
    raise ConfigError(
        f"mesh {_sizes_text(sizes)} needs {'a multiple of ' if -1 in sizes else ''}{known} devices "
        f"and there are {count}: change the mesh sizes (-1 on one axis takes what is left) or the "
        "number of devices"
    )
