"""Masked-LM pre-training: from texts to sequences, from sequences to a model."""
