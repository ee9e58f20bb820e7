"""Models to compare with, behind the same contract as ELMUR (`elmur.sequence_model`)."""
