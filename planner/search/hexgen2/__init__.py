"""HexGen-2: groups of GPUs by spectral partition, phases by flow, guided swaps."""
