"""From a float model to the graph that integer kernels compute."""
