"""Attacks on a model that forgot: relearning, quantisation, other prompts, extraction; and what they bring back."""
