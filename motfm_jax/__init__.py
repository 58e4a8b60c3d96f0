"""Flow matching for medical image synthesis in JAX."""
