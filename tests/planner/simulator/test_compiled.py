"""The compiled kernel's cache follows its sources."""

from pathlib import Path

from planner.simulator import compiled


def test_every_module_with_compiled_functions_counts_for_the_cache() -> None:
    folder = Path(compiled.__file__).parent
    decorated = {
        path.stem
        for path in folder.glob("*.py")
        if any(
            line.startswith(("@compiled", "@inlined", "@entry_point"))
            for line in path.read_text(encoding="utf-8").splitlines()
        )
    }
    # `state` and `handle` hold the constants, types and look-ups that are compiled in.
    assert decorated | {"state", "handle", "compiled"} == set(compiled._KERNEL_MODULES)


def test_only_the_newest_kernels_are_kept(tmp_path: Path) -> None:
    for age in range(5):
        (tmp_path / f"kernels-{age}").mkdir()
    compiled._prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == compiled._NUM_KEPT
