"""Where interactions come from: files, arrays, downloads, the generated demo; what they become."""
