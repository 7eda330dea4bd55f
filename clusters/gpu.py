"""GPU types: what one GPU can hold, compute and move.

Conventions of the numbers: rates are vendor peaks, dense (no sparsity), and link rates
are of one direction. Memory is what the driver reports where that is known, otherwise
the nominal size in GiB.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import fields_to_mapping, from_fields, nearest
from clusters.shipped import shipped_entries, shipped_entry


class Dtype(StrEnum):
    """Number formats that tensor cores have a rate for."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    FP4 = "fp4"
    INT8 = "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where numbers of a catalogue entry come from."""

    source: str = spec("Document, page or measurement.")
    date: str = spec("Date of the document, or of the reading (YYYY, YYYY-MM, -DD).")
    fields: tuple[str, ...] = spec(
        "Fields it covers; empty: every number that no other source names.", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypeRate:
    """Peak dense rate of one number format."""

    dtype: Dtype = spec("Number format of the operands.")
    flops_per_s: float = spec("Dense peak (operations for int8).", unit="FLOP/s", gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """One kind of GPU."""

    name: str = spec("Name in the catalogue, or one of your own.")
    vendor: str = spec("Who makes it, e.g. nvidia or amd.")
    architecture: str = spec("Microarchitecture, e.g. hopper.")
    compute_capability: str | None = spec(
        "What NVIDIA's kernels are compiled for, e.g. 9.0; None: not stated.",
        default=None,
    )
    memory_bytes: int = spec("Memory the driver reports.", unit="bytes", gt=0)
    memory_bytes_per_s: float = spec("Peak memory rate.", unit="bytes/s", gt=0)
    flops: tuple[DtypeRate, ...] = spec("Dense peak rates by number format.")
    nvlink_bytes_per_s: float = spec(
        "NVLink or Infinity Fabric, all links together, one direction; 0: none.",
        unit="bytes/s",
        ge=0,
        default=0.0,
    )
    pcie_generation: int = spec("PCIe generation of its slot.", unit="1", ge=1, le=8)
    pcie_bytes_per_s: float = spec(
        "Link to its PCIe switch or host, one direction.", unit="bytes/s", gt=0
    )
    num_sms: int = spec("Streaming multiprocessors or compute units.", unit="1", ge=1)
    tdp_w: float | None = spec(
        "Board power limit; null: not known.", unit="W", gt=0, default=None
    )
    sources: tuple[Source, ...] = spec("Where the numbers come from.", default=())

    def __post_init__(self) -> None:
        check_fields(self)
        for index, rate in enumerate(self.flops):
            try:
                check_fields(rate)
            except InputError as error:
                raise error.within(f"flops[{index}]") from None
        if not self.flops:
            raise InputError("flops", self.flops, "at least one {dtype, flops_per_s}")
        known = [declared.name for declared in fields(self)]
        for named in (name for source in self.sources for name in source.fields):
            if named not in known:
                raise InputError("sources", named, f"a field ({nearest(named, known)})")

    @classmethod
    def load(cls, name: str) -> Self:
        """The GPU type of that name in the catalogue.

        Raises
        ------
        InputError
            Naming the nearest entry, if there is none of that name.
        """
        return from_fields(cls, shipped_entry("gpus", name))

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names in the catalogue."""
        return tuple(shipped_entries("gpus"))

    @classmethod
    def from_file_form(cls, data: object, *, file: str | None = None) -> Self:
        """A name of the catalogue, or a mapping of all fields."""
        if isinstance(data, str):
            return cls.load(data)
        return from_fields(cls, data, file=file)

    def to_file_form(self) -> object:
        """Its name if it is the catalogue's entry, otherwise all fields."""
        if self.name in shipped_entries("gpus") and self == self.load(self.name):
            return self.name
        return fields_to_mapping(self)

    @property
    def dtypes(self) -> tuple[Dtype, ...]:
        """Number formats it computes in natively."""
        return tuple(rate.dtype for rate in self.flops)

    def flops_per_s(self, dtype: str) -> float:
        """Peak dense rate in `dtype`, in FLOP/s.

        Raises
        ------
        InputError
            If the GPU has no units for that format (see `dtypes`).
        """
        for rate in self.flops:
            if rate.dtype == dtype:
                return rate.flops_per_s
        known = ", ".join(self.dtypes)
        raise InputError(
            "dtype", str(dtype), f"a native format of {self.name}: {known}"
        )

    def source_of(self, field: str) -> Source | None:
        """Where the number in `field` comes from, or None if nobody said."""
        return find_source(self.sources, field)


def find_source(sources: tuple[Source, ...], field: str) -> Source | None:
    """The source that names `field`, otherwise the one that covers the rest."""
    named = [source for source in sources if field in source.fields]
    general = [source for source in sources if not source.fields]
    return next(iter([*named, *general]), None)
