"""Timeline: what every pipeline stage of a simulation did, and when."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusters.fields import spec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """Spans of the pipeline stages, in the order they ended.

    Arrays of shape ``(num_spans,)``.
    """

    replica: NDArray[np.int64]
    stage: NDArray[np.int64]
    start_ms: NDArray[np.float64]
    end_ms: NDArray[np.float64]
    doing: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    num_prompt_tokens: NDArray[np.int64]
    num_decodes: NDArray[np.int64]
    num_left_out: int = spec("Later spans, for which there was no room.", unit="1")

    @property
    def num_spans(self) -> int:
        """Spans kept."""
        return len(self.start_ms)

    @property
    def end_of_last_ms(self) -> float:
        """Until when everything was recorded."""
        return float(self.end_ms.max()) if self.num_spans else 0.0
