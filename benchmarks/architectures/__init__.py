"""Every architecture of the installed transformers, built small and taken through what taskarith does."""
