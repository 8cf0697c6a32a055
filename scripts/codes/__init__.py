"""The embedded model ``codes``: its generated training pictures, its training and evaluation, and the demo.

Training (``python -m scripts.codes train``) uses symbols, surfaces, distractors -> scenes -> dataset -> training ->
export. Evaluation (``python -m scripts.codes evaluate``, scripts/demo) uses scenes -> samples, score -> evaluation,
demo.
"""
