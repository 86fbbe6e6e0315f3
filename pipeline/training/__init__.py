"""What `lexbeam pretrain` and `lexbeam finetune` have in common."""
