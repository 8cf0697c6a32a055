"""Trials: what streams do when something breaks. python -m scripts.trials --help"""
