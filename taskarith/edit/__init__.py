"""Edit a checkpoint: plan what happens to each tensor, stream it, publish it."""
