"""Looking inside: what a run can learn (doctor), what a memory holds and does (inspect), and a watch in training."""
