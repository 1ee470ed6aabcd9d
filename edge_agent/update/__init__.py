"""Installing on the device: the update machine, its journal, the slots A and B, the trial."""
