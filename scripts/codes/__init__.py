"""The embedded model ``codes``: the pictures it learns from, its training and score, and the demo of it.

symbols, surfaces, distractors -> scenes -> dataset -> training -> export: how the model is made (python -m scripts.codes train).
scenes -> samples, score -> evaluation, demo: what it is worth (python -m scripts.codes evaluate, scripts/demo).
"""
