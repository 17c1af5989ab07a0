"""Every pattern recorded from Gluon's `collect_params` finds the same parameters here."""

import json
from pathlib import Path

import numpy as np
import pytest

from paramtree.errors import NoMatchError
from paramtree.tree import collect_params, unflatten

RECORDS = json.loads((Path(__file__).parent / "goldens" / "regex_select.json").read_text())
CASES = [(record["names"], pattern, hit) for record in RECORDS for pattern, hit in record["select"].items()]


def translated(pattern):
    """Gluon anchors a pattern at the start only, and joins with an underscore."""
    return pattern.replace("_", "/") + ".*"


@pytest.mark.parametrize(("names", "pattern", "hit"), CASES, ids=[repr(case[1]) for case in CASES])
def test_gluon_patterns(names, pattern, hit):
    params = unflatten({name.replace("_", "/"): np.zeros(1) for name in names})
    expected = [name.replace("_", "/") for name in hit]
    if expected:
        # dense0 to dense11 were made in natural order, so that Gluon's order of making is ours
        assert list(collect_params(params, translated(pattern))) == expected
    else:
        with pytest.raises(NoMatchError):
            collect_params(params, translated(pattern))


def test_the_record_is_whole():
    assert len(CASES) == 17
    assert sum(not hit for _, _, hit in CASES) == 3
