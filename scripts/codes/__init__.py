"""The embedded model ``codes``: its generated training images, its training and evaluation, and the demo.

Training, by ``python -m scripts.codes train``:
    symbols, surfaces, distractors -> scenes -> dataset -> training -> export
Evaluation, by ``python -m scripts.codes evaluate`` and scripts/demo:
    scenes -> samples, score -> evaluation, demo
"""
