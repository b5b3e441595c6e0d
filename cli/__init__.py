"""The command line, before torch is loaded: flags, errors, names of components, torchrun."""
