"""`lexbeam plan`: what a job would take, from a sample of its input that is measured here."""
