"""Run every test stricter than users do: strict dtypes, no rank promotion, eight host devices."""

import os
from importlib.util import find_spec

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

try:
    from hypothesis import settings
except ImportError:
    pass  # the property tests skip themselves; everything else runs without hypothesis
else:
    settings.register_profile("paramtree", deadline=None, max_examples=60)
    settings.load_profile("paramtree")

# helpers that tests import, and programs: they hold no tests, and may need what is not installed
collect_ignore = ["strategies.py", "sameness.py", "golden_nets.py", "layer_table.py", "benchmarks"]

EXAMPLES_NEED = {"optax": ["README.md", "groups.py", "step.py"], "matplotlib": ["plot.py"]}


def pytest_collection_modifyitems(items):
    """Skip the examples that train, and those that draw, where what they need is not installed."""
    for package, files in EXAMPLES_NEED.items():
        if find_spec(package) is None:
            for item in items:
                if isinstance(item, pytest.DoctestItem) and item.path.name in files:
                    item.add_marker(pytest.mark.skip(reason=f"{package} is not installed"))
