"""Model cards: what an output is, in the words and the metadata that the hub reads."""
