"""The embedded model ``codes``: the pictures it learns from, its training and score, and the demo of it.

How the model is made (``python -m scripts.codes train``):
symbols, surfaces, distractors -> scenes -> dataset -> training -> export.
What it is worth (``python -m scripts.codes evaluate``, scripts/demo): scenes -> samples, score -> evaluation, demo.
"""
