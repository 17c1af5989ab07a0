"""Spread parameters over devices by rules, on `jax.sharding`: plan first, then place."""

from paramtree.sharding.place import shard, shardings
from paramtree.sharding.plan import ShardingPlan, plan_sharding

__all__ = ["ShardingPlan", "plan_sharding", "shard", "shardings"]
