"""The arithmetic of edits: pure functions of tensors, exact and rounded once."""
