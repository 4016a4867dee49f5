"""What runs a graph: an interpreter, which needs no compilation, or inductor, the compiler of PyTorch."""
