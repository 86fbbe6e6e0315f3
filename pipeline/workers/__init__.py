"""`lexbeam worker-pool`: starts Beam's worker processes on a host, for EXTERNAL environments."""
