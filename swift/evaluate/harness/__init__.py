"""What runs in EvalScope's environment; a folder of its own, so that nothing beside it hides a package there."""
