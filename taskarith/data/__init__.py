"""Data sets and documents to tokens."""
