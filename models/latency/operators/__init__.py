"""One model per operator kind: an ideal time, and how much slower kernels are."""
