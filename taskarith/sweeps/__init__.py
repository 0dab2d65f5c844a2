"""Which coefficients: candidates are tried, and a rule chooses one on held-out samples."""
