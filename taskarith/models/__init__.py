"""Load a model on a device, in the right precision."""
