"""Tiny models of every task, and generated scenes of coloured shapes for which their answers are known."""
