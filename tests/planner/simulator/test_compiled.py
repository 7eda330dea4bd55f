"""The compiled kernel's cache follows its sources."""

from pathlib import Path

from planner.simulator import compiled

BESIDE = ("state", "handle", "linking", "compiled")
DECORATORS = ("@compiled", "@optional", "@inlined", "@entry_point")


def test_every_module_with_compiled_functions_counts_for_the_cache() -> None:
    folder = Path(compiled.__file__).parents[1]
    decorated = {
        path
        for path in folder.rglob("*.py")
        if any(
            line.startswith(DECORATORS)
            for line in path.read_text(encoding="utf-8").splitlines()
        )
    }
    beside = {folder / "simulator" / f"{n}.py" for n in BESIDE}
    beside |= set(folder.rglob("*_state.py"))
    beside.add(folder.parent / "models" / "latency" / "stretch.py")
    assert {path for path, _ in compiled.kernel_sources()} == decorated | beside


def test_only_the_newest_kernels_are_kept(tmp_path: Path) -> None:
    for age in range(5):
        (tmp_path / f"kernels-{age}").mkdir()
    compiled._prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == compiled._NUM_KEPT
