"""Trials: what it does when something breaks, or somebody means to. python -m scripts.trials --help"""
