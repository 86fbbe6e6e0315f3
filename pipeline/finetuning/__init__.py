"""`lexbeam finetune`: labelled documents become a classifier, pairs of texts better vectors."""
