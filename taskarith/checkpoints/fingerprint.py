"""Moved (temporary): see checkpoint.py and reader.py."""

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.reader import fingerprint_bytes

__all__ = ["fingerprint_bytes", "fingerprint_model"]
