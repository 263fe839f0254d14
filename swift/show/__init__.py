"""Looking at what is trained before anything is trained."""
