"""Publishing on the hub: what is uploaded, the numbers on its card, the upload."""
