"""Networks in torch: built from a plan, filled from weights and batch-norm state."""
