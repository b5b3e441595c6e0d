"""What is needed before torch is loaded: flags, errors, names of components, the environment that torchrun sets."""
