"""Hostile inputs: sound files are damaged as a stranger could, and every reader has to give a result or its own error."""
