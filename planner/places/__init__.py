"""Places: which GPUs of unlike hosts serve which replicas, by the KV flow."""
