"""How detectors and segmenters of transformers are asked, and what they find."""
