"""Hostile inputs: sound files are damaged as a stranger could; every reader gives a result or an error of its own."""
