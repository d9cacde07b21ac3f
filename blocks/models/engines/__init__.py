"""Who computes: transformers or vLLM here, an endpoint, a vendor's SDK."""
