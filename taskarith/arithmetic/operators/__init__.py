"""How deltas become one: pure arithmetic on float64 arrays, no files."""
