"""The parts of `experiments.reproduce_paper`: its plan, its own stages, its figures and numbers."""
