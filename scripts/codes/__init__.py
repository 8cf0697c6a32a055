"""Generate training images for the embedded model ``codes``, train and evaluate it, and run the demo.

Modules that ``python -m scripts.codes train`` uses:
    symbols, surfaces, distractors -> scenes -> dataset -> training -> export
Modules that ``python -m scripts.codes evaluate`` and scripts/demo use:
    scenes -> samples, score -> evaluation, demo
"""
