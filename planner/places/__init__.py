"""Places: which GPUs serve which replicas where links are short, by the KV flow."""
