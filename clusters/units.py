"""The only place with conversion factors.

Inside the program bytes are bytes, rates are per second, and durations of
computation are milliseconds (`_ms`). Files may use the units people write (GB/s,
Gbit/s, TFLOP/s); they are converted here, once, when they are read.
"""

from collections.abc import Callable, Mapping

GB = 1e9
"""Decimal gigabyte in bytes, as bandwidths and datasheets count."""
GIB = 2**30
"""Binary gigabyte in bytes, as memory sizes are counted."""
MIB = 2**20
TERA = 1e12
BITS_PER_BYTE = 8
MS_PER_S = 1000.0
US_PER_MS = 1000.0
S_PER_HOUR = 3600.0


def gb_to_bytes(gigabytes: float) -> float:
    """Decimal gigabytes to bytes."""
    return gigabytes * GB


def gib_to_bytes(gibibytes: float) -> float:
    """Binary gigabytes to bytes."""
    return gibibytes * GIB


def gbit_to_bytes(gigabits: float) -> float:
    """Decimal gigabits to bytes."""
    return gigabits * GB / BITS_PER_BYTE


def tflops_to_flops(tera: float) -> float:
    """TFLOP/s to FLOP/s."""
    return tera * TERA


def s_to_ms(seconds: float) -> float:
    """Seconds to milliseconds."""
    return seconds * MS_PER_S


def ms_to_s(milliseconds: float) -> float:
    """Milliseconds to seconds."""
    return milliseconds / MS_PER_S


def us_to_ms(microseconds: float) -> float:
    """Microseconds to milliseconds."""
    return microseconds / US_PER_MS


def transfer_ms(num_bytes: float, bytes_per_s: float) -> float:
    """Time to move `num_bytes` at `bytes_per_s`, in ms."""
    return num_bytes / bytes_per_s * MS_PER_S


def mib_to_bytes(mebibytes: float) -> float:
    """Binary megabytes (as drivers report memory) to bytes."""
    return mebibytes * MIB


FILE_UNITS: Mapping[str, Mapping[str, Callable[[float], float]]] = {
    "bytes_per_s": {"gb_per_s": gb_to_bytes, "gbit_per_s": gbit_to_bytes},
    "flops_per_s": {"tflops": tflops_to_flops},
    "bytes": {"gib": gib_to_bytes, "gb": gb_to_bytes, "mib": mib_to_bytes},
    "ms": {"s": s_to_ms, "us": us_to_ms},
}
"""Unit suffixes a file may use instead of ours: ``nic_gbit_per_s: 100`` fills
``nic_bytes_per_s``. The unit is always in the key, so nothing is guessed."""
