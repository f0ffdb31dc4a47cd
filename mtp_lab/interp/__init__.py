"""Instruments for opening a trained model: they read models and never train them.

Each instrument is validated on the model of handmade.py, whose circuit is known because it was written down.
"""
