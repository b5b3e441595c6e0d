"""Models of explicit ratings: SVD and SVD++."""
