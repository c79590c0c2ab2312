"""What K-FAC is compared with: a reference in NumPy, and recorded paths of kfac-jax."""
