"""Several LLMs on one cluster: units of LLMs that share GPUs, and their placement."""
