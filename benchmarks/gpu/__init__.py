"""What a GPU does for taskarith, beside the CPU of the same machine."""
