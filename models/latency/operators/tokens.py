"""Token counts at which every operator of a step is evaluated.

Pairs one token apart are tile edges: a kernel that starts another tile of rows there
costs 21 to 64 % more. Between knots a step is linear, as in a `StepTable`.
"""

import numpy as np

TOKEN_KNOTS = np.asarray(
    [
        *(1, 2, 4, 8, 16, 17, 24, 32, 33, 48, 64, 65, 80, 96, 112, 128, 129),
        *(160, 192, 224, 256, 257, 320, 384, 448, 512, 513, 640, 768, 896, 1024),
        *(1025, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 6144, 8192),
        *(12288, 16384, 24576, 32768, 65536, 131072, 262144),
    ],
    dtype=np.float64,
)
"""Shape ``(num_knots,)``, rising."""
