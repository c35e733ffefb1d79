"""What goes out: the run directory, images, contact sheets and plots. Imports no jax."""
