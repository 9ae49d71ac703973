"""Where arrays live while they are used."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

Tree = Any


def whole_parameters(params: Tree, mesh: Any) -> Tree:
    """Parameters that "fsdp" splits, whole on every chip while they are used; gradients unchanged.

    Left to itself the partitioner may keep a kernel split and gather the activations, or sum them
    over the chips, instead: for maps and long texts these are many times larger. A mesh that splits
    layers over "model" says itself what is to be computed where, and is left alone.

    Args:
      params: pytree of arrays.
      mesh: the mesh of the step, or None on one device.
    """
    if mesh is None or mesh.shape.get("fsdp", 1) == 1 or mesh.shape.get("model", 1) > 1:
        return params
    everywhere = NamedSharding(mesh, P())

    @jax.custom_vjp
    def gather(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, everywhere)

    # The gradient is summed straight into its parts, not everywhere first.
    gather.defvjp(
        lambda x: (jax.lax.with_sharding_constraint(x, everywhere), None),
        lambda _, gradient: (gradient,),
    )
    return jax.tree.map(gather, params)
