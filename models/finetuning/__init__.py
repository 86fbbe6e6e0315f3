"""Fine-tuning: classifiers, and vectors that bring together what belongs together."""
