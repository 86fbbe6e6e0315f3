"""Jobs on a Flink cluster: how they are set up, submitted, watched and cancelled."""
