"""What comes in: cohorts of brain scans, volumes, lesions, synthetic brains and batches. No jax."""
