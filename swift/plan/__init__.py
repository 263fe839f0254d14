"""The memory that a run will take and whether the machine has it, traced before any weights are read."""
