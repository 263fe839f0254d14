"""`swift infer`: a conversation on the terminal, or answers to the rows of a data set."""
