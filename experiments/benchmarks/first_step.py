"""The first step of an ascent in a fresh process, as a program for `experiments.benchmark`."""

from experiments.benchmarks.ascents import ascent_job, random_network
from featvis_jax.nn.cnn import CNN

if __name__ == "__main__":
    ascent_job(random_network(CNN(rank=2), (140, 192, 1)), "conv5", batch=8).run(1)
