"""The paper's one-layer transformer, and its claims about task vectors measured on it."""
