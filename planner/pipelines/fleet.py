"""Fleet: machines of several kinds, the links between them, and layers they can hold.

A machine is what holds consecutive layers as one: a GPU, or a tensor-parallel group.
Requests enter and leave through a coordinator, the last row and column of the link
arrays. A token takes `token_bytes` to and from it, and with its activations
`hop_bytes` from machine to machine.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec

FloatArray = NDArray[np.float64]

COORDINATOR = -1
"""Stands for the coordinator where machines are named by their index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineKind:
    """A kind of machine: how many tokens pass it, by the layers it holds.

    The rates need not fall with the layers: a table of measured typical rates jumps
    where a batch size is rounded. So nothing here assumes that fewer layers are faster.
    """

    name: str = spec("Name of the kind.")
    tokens_per_s: tuple[float, ...] = spec(
        "Tokens that pass it, by the layers it holds, from one layer on.",
        unit="tokens/s",
    )
    nic_bytes_per_s: float = spec(
        "Rate of its network adapter in one direction.", unit="bytes/s", gt=0
    )

    def __post_init__(self) -> None:
        check_fields(self)
        rates = np.asarray(self.tokens_per_s, dtype=np.float64)
        if not len(rates) or not np.isfinite(rates).all() or rates.min() <= 0:
            form = "finite numbers > 0, one for each number of layers"
            raise InputError("tokens_per_s", self.tokens_per_s, form)

    @property
    def max_layers(self) -> int:
        """Most layers it can hold."""
        return len(self.tokens_per_s)

    def rate(self, num_layers: int) -> float:
        """Tokens/s that pass it when it holds `num_layers`; 0 when it cannot."""
        if not 0 < num_layers <= self.max_layers:
            return 0.0
        return self.tokens_per_s[num_layers - 1]


# No slots: the cached properties need the instance's dictionary.
@dataclass(frozen=True, kw_only=True, eq=False)
class Fleet:
    """Machines, the links between them, and the model they are to hold.

    Attributes
    ----------
    link_bytes_per_s, link_latency_ms
        From each machine (row) to each (column), the coordinator last; shape
        ``(num_machines + 1, num_machines + 1)``. A rate of 0 means no link.
    """

    kinds: tuple[MachineKind, ...] = spec("The kind of every machine.")
    num_layers: int = spec("Layers of the model.", unit="layers", ge=1)
    token_bytes: float = spec("A token on its own.", unit="bytes", gt=0)
    activation_bytes: float = spec("Its activations.", unit="bytes", ge=0)
    coordinator_bytes_per_s: float = spec(
        "Rate of the coordinator's network adapter.", unit="bytes/s", gt=0
    )
    link_bytes_per_s: FloatArray = spec("Rates of the links.", unit="bytes/s")
    link_latency_ms: FloatArray = spec("Latencies of the links.", unit="ms")

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.kinds:
            raise InputError("kinds", self.kinds, "at least one machine")
        side = self.num_machines + 1
        for key in ("link_bytes_per_s", "link_latency_ms"):
            array = getattr(self, key)
            if array.shape != (side, side):
                raise InputError(key, array.shape, f"an array of {side} x {side}")
            if not np.isfinite(array).all() or array.min() < 0:
                raise InputError(key, "…", "finite numbers >= 0")

    @property
    def num_machines(self) -> int:
        """Number of machines."""
        return len(self.kinds)

    @property
    def hop_bytes(self) -> float:
        """Bytes of a token from one machine to the next."""
        return self.token_bytes + self.activation_bytes

    @cached_property
    def kind_names(self) -> tuple[str, ...]:
        """Different kinds by name, in order of first appearance."""
        return tuple(dict.fromkeys(kind.name for kind in self.kinds))

    def kind(self, name: str) -> MachineKind:
        """The kind of that name."""
        return next(kind for kind in self.kinds if kind.name == name)

    def of_kind(self, name: str) -> tuple[int, ...]:
        """Machines of a kind, in order."""
        return tuple(i for i, kind in enumerate(self.kinds) if kind.name == name)

    @cached_property
    def is_uniform(self) -> bool:
        """Whether all links between machines are equal, and so are all others."""
        inner = ~np.eye(self.num_machines, dtype=bool)
        groups = (
            [a[:-1, :-1][inner] for a in self._link_arrays]
            + [a[:-1, -1] for a in self._link_arrays]
            + [a[-1, :-1] for a in self._link_arrays]
        )
        return all(len(np.unique(group)) <= 1 for group in groups)

    @property
    def _link_arrays(self) -> tuple[FloatArray, FloatArray]:
        return self.link_bytes_per_s, self.link_latency_ms

    def link_tokens_per_s(self, source: int, target: int) -> float:
        """Tokens/s that a link carries; `COORDINATOR` names the coordinator."""
        is_hop = source != COORDINATOR and target != COORDINATOR
        size = self.hop_bytes if is_hop else self.token_bytes
        return float(self.link_bytes_per_s[source, target]) / size

    def machine_tokens_per_s(self, machine: int, num_layers: int) -> float:
        """Tokens/s that pass a machine with `num_layers`, adapter included."""
        kind = self.kinds[machine]
        return min(kind.rate(num_layers), kind.nic_bytes_per_s / self.hop_bytes)
