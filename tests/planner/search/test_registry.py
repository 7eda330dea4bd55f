"""Names of methods and groups."""

import pytest

from planner.errors import UnknownMethodError
from planner.search.registry import method_names, methods_of


def test_every_name_stands_for_methods():
    for name in method_names():
        assert methods_of(name)


def test_auto_compares_both_kinds():
    names = [method.name for method in methods_of("auto")]
    assert names == [
        "aggregated",
        "distserve-high",
        "distserve-low",
        "provisioning",
        "hexgen2",
        "pipelines",
        "local-search",
    ]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownMethodError, match="distserve-high"):
        methods_of("distserve-hi")
