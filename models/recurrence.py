"""The recurrent part of a linear-attention layer, as one GPU holds it.

Reference
    Yang, Kautz, Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule",
    ICLR 2025, arXiv 2412.06464, section 3.3 (the chunked form).

A decode step reads and writes the state of every request, whatever its context. A
prefill works in chunks: products within a chunk, and of each chunk with the state.
"""

from dataclasses import dataclass

from clusters.fields import spec

_ACTIVATION_BYTES = 2
CHUNK_TOKENS = 64
"""Chunk of the released kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrenceShape:
    """Gated delta rule of one layer on one GPU."""

    num_key_heads: int = spec("Query and key heads on this GPU.", unit="heads")
    num_value_heads: int = spec("Value heads on this GPU.", unit="heads")
    key_dim: int = spec("Width of a key.", unit="1")
    value_dim: int = spec("Width of a value.", unit="1")
    conv_kernel: int = spec("Tokens the convolution spans.", unit="tokens")
    state_element_bytes: float = spec("Bytes of a state element.", unit="bytes")

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution over queries, keys and values."""
        keys = 2 * self.num_key_heads * self.key_dim
        return keys + self.num_value_heads * self.value_dim

    @property
    def matrix_bytes(self) -> float:
        """Bytes of the state matrices of one request."""
        elements = self.num_value_heads * self.key_dim * self.value_dim
        return elements * self.state_element_bytes

    @property
    def state_bytes(self) -> float:
        """All bytes kept for one request: matrices, and inputs of the convolution."""
        kept = self.conv_channels * (self.conv_kernel - 1)
        return self.matrix_bytes + kept * _ACTIVATION_BYTES

    @property
    def prefill_flops_per_token(self) -> float:
        """FLOPs of a token of a prompt, within its chunk and with the state.

        A chunk of C tokens takes K Kᵀ, Q Kᵀ and T K (C² keys wide each), T V and P V
        (C² values wide), and three products with the state.
        """
        key, value = self.key_dim, self.value_dim
        inside = CHUNK_TOKENS * (3 * key + 2 * value)
        return 2.0 * self.num_value_heads * (inside + 3 * key * value)

    @property
    def token_bytes(self) -> float:
        """Inputs and outputs of a token: the convolution's, then values and gates."""
        rows = 3 * self.conv_channels + 2 * self.num_value_heads * self.value_dim
        return float(_ACTIVATION_BYTES * rows)
