"""How task vectors relate, which parameters matter to what, and coefficients for unseen tasks."""
