"""Is it true? Residual, exploitability, concavity, uniqueness, error bound."""
