"""`lexbeam pretrain`: a corpus becomes sequences, and sequences a model."""
