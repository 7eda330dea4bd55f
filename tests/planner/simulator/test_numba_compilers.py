"""Without the inner parts of numba that link, kernels give the same results."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from planner.simulator import compiled, kernel, linking, numba_compilers
from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.launch import run_world
from planner.simulator.system import Phase
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

TINY_KERNEL = """
import logging
import sys

logging.basicConfig(level=logging.INFO)
sys.modules["planner.simulator.linking"] = None  # importing it is an ImportError
from planner.simulator.compiled import (
    IS_LINKED, compiled, entry_point, inlined, optional
)

@compiled
def share(total, parts):
    return total // parts

@inlined
def doubled(total, parts):
    return 2 * share(total, parts)

@optional
def one_more(total) -> int:
    return total + 1

@entry_point
def all_of_them(total, parts):
    return share(total, parts) + doubled(total, parts) + one_more(total)

print(IS_LINKED, all_of_them(14, 4), all_of_them(14, 4))
"""


def test_a_kernel_without_the_linking_compilers_gives_the_same(tmp_path):
    script = tmp_path / "tiny_kernel.py"
    script.write_text(TINY_KERNEL, encoding="utf-8")
    env = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    # 14 // 4 + 2 * (14 // 4) + 15, compiled and again
    assert done.stdout.split() == ["False", "24", "24"]
    assert done.stderr.count("function by function") == 1
    assert list(tmp_path.glob("phaseplan/kernels-*/*/tiny_kernel.all_of_them*.nbi"))


def test_where_nothing_can_be_left_out_every_run_has_the_full_kernel(monkeypatch):
    ran = []
    monkeypatch.setattr(compiled, "IS_LINKED", False)
    monkeypatch.setattr(
        kernel, "run", lambda handle: ran.append(handle.is_lean) or True
    )
    both = tiny_replica(Phase.AGGREGATED, tiny_table())
    requests = tiny_requests((0.0, 1, 2))
    run_world(lambda: build_world(tiny_system(both), requests, SimulationOptions()))
    assert ran == [False]


def test_a_numba_that_was_not_tried_is_tried_out(monkeypatch, caplog):
    monkeypatch.setattr(numba_compilers, "TRIED", frozenset())
    assert numba_compilers.linking_compilers() is linking
    monkeypatch.setattr(linking, "_ir", SimpleNamespace())  # a numba with another one
    caplog.set_level("INFO", logger="planner.simulator.numba_compilers")
    assert numba_compilers.linking_compilers() is None
    assert "function by function" in caplog.text


def test_compilers_that_give_something_else_are_not_used():
    class Wrong(linking.WholeCompiler):
        def compile_extra(self, function):
            return super().compile_extra(lambda w, n: n)

    compilers = SimpleNamespace(
        PartCompiler=linking.PartCompiler,
        OptionalCompiler=linking.OptionalCompiler,
        WholeCompiler=Wrong,
    )
    with pytest.raises(ValueError, match="4 \\+ 9 is 8"):
        numba_compilers.try_out(compilers)
