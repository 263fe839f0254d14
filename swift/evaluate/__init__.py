"""`swift eval`: EvalScope's data sets against our own server, or any other."""
