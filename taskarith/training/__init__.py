"""Data sets to tokens, and tokens to a fine-tuned model or adapter."""
