"""Which coefficients to use: how task vectors relate, which parameters matter to what, and what follows from it."""
