"""Sources of interactions: files, arrays on disk, downloads, the generated demo."""
