"""Merge methods: how the deltas of several vectors become one; pure arithmetic, no files."""
