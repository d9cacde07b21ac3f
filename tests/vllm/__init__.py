"""vLLM itself on a CPU, in process and at its server, beside transformers with the same weights: `make test-vllm`."""
