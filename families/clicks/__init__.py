"""Models of clicks (LR, FM, DeepFM, DCNv2), the ReLoop2 memory of errors, a stream of slots."""
