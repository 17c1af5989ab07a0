"""Put parameters where rules say."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from paramtree.checkpoint.layout import is_narrowed
from paramtree.draw import ParamSpec, put
from paramtree.errors import MismatchError, ParamTreeError, raise_faults
from paramtree.names import flatten_named
from paramtree.select import Rules
from paramtree.sharding.plan import plan_sharding


def shardings(params: Any, /, mesh: Mesh | AbstractMesh, rules: Rules) -> Any:
    """Give each parameter its `NamedSharding` by rules: a tree as `jax.jit` and `jax.device_put` take it.

    Args:
        params: any tree of parameters or specs.
        mesh: the devices.
        rules: select -> `PartitionSpec`; see `plan_sharding`, which shows them as a table.

    >>> from jax.sharding import PartitionSpec as P
    >>> mesh = jax.sharding.AbstractMesh((4,), ("data",))
    >>> shardings({"weight": np.ones((8, 2))}, mesh, {".*": P("data")})["weight"].spec
    P('data',)

    Raises:
        RuleError: listing all that does not fit.
        ParamTreeError: where it is not a mesh.
    """
    return plan_sharding(params, mesh, rules).shardings()


def shard(params: Any, /, mesh: Mesh, rules: Rules) -> Any:
    """Spread parameters over devices by rules; specs become `jax.ShapeDtypeStruct`s that say where.

    What it gives for specs is what `pt.load(file, like=...)` fills: each device reads its part.

    Over the devices of several processes, join them first, and say how long they wait for each other:
    `jax.distributed.initialize(address, processes, number, initialization_timeout=60)`. Where fewer come than
    `processes` says, or no coordinator is at the address, it ends with DEADLINE_EXCEEDED after these seconds;
    left alone, after 300.

    Args:
        params: any tree of parameters or specs, the state of an optimiser too.
        mesh: the devices, on axes of either type: of type Auto, as `jax.sharding.Mesh` makes them, a net that
            is written for one device runs as it is; of type Explicit, as `jax.make_mesh` does, JAX asks it
            for the `out_sharding` of products that are ambiguous.
        rules: select -> `PartitionSpec`; see `plan_sharding`, which shows them as a table.

    >>> from jax.sharding import PartitionSpec as P
    >>> mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    >>> shard({"weight": np.ones((8, 2), np.float32)}, mesh, {".*": P("data")})["weight"].sharding.spec
    P('data',)

    Raises:
        RuleError: listing all that does not fit.
        MismatchError: listing every array that JAX would narrow.
        ParamTreeError: where it is not a mesh, or has no devices.
    """
    if isinstance(mesh, AbstractMesh):
        raise ParamTreeError("shard: an AbstractMesh has no devices; jax.make_mesh gives one that has.")
    placed = jax.tree.leaves(shardings(params, mesh, rules))
    leaves, structure = flatten_named(params)
    faults = [
        f"{name} is {leaves[index].dtype}"
        for name, index in zip(structure.names, structure.indices, strict=True)
        if isinstance(leaves[index], np.ndarray) and is_narrowed(leaves[index].dtype)
    ]
    raise_faults(MismatchError, "shard: JAX would narrow these; pt.cast them, or set jax_enable_x64:", faults)
    put = [_put(leaf, sharding) for leaf, sharding in zip(leaves, placed, strict=True)]
    return jax.tree.unflatten(structure.treedef, put)


def _put(leaf: Any, sharding: Any) -> Any:
    if isinstance(leaf, ParamSpec | jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return put(leaf, sharding)
