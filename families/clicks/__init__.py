"""Models of clicks (LR, FM, DeepFM, DCNv2), with the ReLoop2 memory of errors and a stream of slots."""
