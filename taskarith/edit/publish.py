"""Moved: see taskarith.checkpoints.publish (temporary, to be removed today)."""

from taskarith.checkpoints.publish import check_target, publish_folder

__all__ = ["check_target", "publish_folder"]
