"""Activation maximization: objectives, penalties, parameterizations, transforms and the ascent."""
