"""What a device has beside plain kernels, or why not, for a campaign's summary."""

from profiler.features import Feature, why_left_out
from profiler.layers.attention import why_not_varlen
from profiler.layers.linear import why_not_fp8
from profiler.layers.moe import why_not_grouped
from profiler.layers.settings import LayerSettings

_HEADS = (32, 8, 128)
"""Query heads, KV heads and width that the flash kernel is tried with."""


def feature_report(settings: LayerSettings) -> dict[str, str]:
    """``ok``, or ``not available`` and the reason, by feature."""
    device, dtype = settings.device, settings.dtype
    no_cuda = None if device.type == "cuda" else "no CUDA device"
    reasons = {
        "flash kernel for ragged batches": no_cuda
        or why_not_varlen(device, dtype, _HEADS),
        "fused elementwise steps": settings.why_plain,
        "fp8 products": why_not_fp8(device, dtype),
        "grouped products": why_not_grouped(device, dtype),
        "captured steps": no_cuda or why_left_out(Feature.GRAPHS),
    }
    return {
        name: f"not available: {reason}" if reason else "ok"
        for name, reason in reasons.items()
    }
