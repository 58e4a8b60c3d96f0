"""Integration of the sampling ODE."""
