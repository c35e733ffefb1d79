"""Small trained models that ship with the package: a folder each, with weights and a card.

`featvis_jax.checkpoints.load_model` takes their names; loading them needs no network.
"""
