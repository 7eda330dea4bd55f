"""The contract of exporters: from a plan to the files of one serving system."""

from typing import Protocol

from planner.plan import Plan


class Exporter(Protocol):
    """Writes plans for one serving system, as text; it opens no file."""

    @property
    def target(self) -> str:
        """Name users select it by."""
        ...

    @property
    def target_version(self) -> str:
        """Version of the serving system that its files are written for."""
        ...

    def supports(self, plan: Plan) -> str | None:
        """None, or why it cannot express `plan`."""
        ...

    def caveats(self, plan: Plan) -> tuple[str, ...]:
        """What users should know before they run the files, one sentence or two each.

        Known incompatibilities of the serving system with this plan, and where it
        behaves differently from the simulation.
        """
        ...

    def export(self, plan: Plan) -> dict[str, str]:
        """Text of each file by its name; scripts begin with ``#!``."""
        ...
