"""The Transformer in PyTorch: encoder, decoder and what reads and writes their checkpoints.

Vaswani et al. 2017, Attention Is All You Need; Devlin et al. 2019, BERT.
"""
