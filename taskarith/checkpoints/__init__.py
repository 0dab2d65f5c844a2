"""A model on disk or on the hub, as lazily read named tensors."""
