"""The Open Inference Protocol v2 beside the service's own API: pictures or pixels in, the best classes out.

Specification: https://github.com/kserve/open-inference-protocol; binary tensors are Triton's extension of it.
"""
