"""Packed forms of a task vector, one small codec each."""
