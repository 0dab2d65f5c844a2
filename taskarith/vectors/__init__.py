"""Task vectors of every form, opened, read chunk by chunk, and extracted."""
